// Shows openapi.json for people to read.

const make = (tag, name, ...children) => {
  const element = document.createElement(tag);
  element.className = name;
  element.append(...children);
  return element;
};

/** A schema in one line. */
function short(schema, components) {
  if (schema.$ref) return short(components[schema.$ref.split("/").pop()], components);
  if (schema.oneOf) return schema.oneOf.map((one) => short(one, components)).join(" or ");
  if (schema.type === "array") return `[${short(schema.items, components)}, …]`;
  if (schema.type === "object" && schema.properties)
    return `{${Object.entries(schema.properties).map(([name, one]) => `"${name}"${schema.required?.includes(name) ? "" : "?"}: ${short(one, components)}`).join(", ")}}`;
  return schema.enum ? schema.enum.map((one) => `"${one}"`).join(" | ") : [schema.type].flat().join(" | ");
}

const api = await (await fetch("openapi.json")).json();
const box = document.getElementById("docs");
box.append(make("h2", "", api.info.title), make("p", "", api.info.description));
for (const { name } of api.tags) {
  box.append(make("h3", "group", name));
  for (const [path, verbs] of Object.entries(api.paths))
    for (const [verb, what] of Object.entries(verbs)) {
      if (what.tags[0] !== name) continue;
      const inside = make("div", "inside", ...(what.description ? [make("p", "", what.description)] : []));
      const body = what.requestBody?.content;
      if (body) for (const [type, { schema }] of Object.entries(body)) inside.append(make("p", "", `Body, ${type}:`), make("pre", "", make("code", "", short(schema, api.components.schemas))));
      const rows = [
        ...(what.parameters ?? []).map((one) => [one.name, `${one.in}: ${one.description}`]),
        ...Object.entries(what.responses).map(([status, one]) => [status, one.description]),
      ];
      inside.append(make("table", "", ...rows.map(([key, text]) => make("tr", "", make("td", "", make("code", "", key)), make("td", "", text)))));
      box.append(make("details", "card", make("summary", "", make("span", `verb ${verb}`, verb.toUpperCase()), make("code", "", path), make("span", "", what.summary)), inside));
    }
}
