// The page: choose a source, draw boxes, track, correct, take the results home.

import { Chart, Stage, colorOf } from "./stage.js";

const $ = (id) => document.getElementById(id);
const ACTIVE = (state) => state === "running";
const AHEAD = 6; // frames that playback asks for beforehand
const KEPT = 40; // frames kept to step through
const LIVE_SPAN = 600; // frames of a live source that the chart shows

let info = null;
let source = null;
let track = null; // as the server describes it
let traces = new Map(); // target -> Map(frame -> {id, frame, time, box, confidence, lost})
let events = null;
let shown = null; // {frame, time, image}
let following = false; // the newest frame of a running track or a live source
let playing = false; // frames by number, from here on
let chosen = null; // target that a new box corrects
let session = 0; // grows with every source and track: what was asked before is void
let adding = false; // the next box is a new target
const pictures = new Map(); // frame -> promise of {frame, time, image}

const stage = new Stage($("stage"), {
  begin: beginBox,
  change: refresh,
  choose(number) {
    if (number !== null) choose(number);
  },
});
const chart = new Chart($("chart"), seek);

// --- talking to the server ------------------------------------------------------------------------------

async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error ?? `the server answered ${answer.status}`);
  return answer;
}

const json = async (method, path, body) => (await call(method, path, body)).json();

/** Runs something for the user; what goes wrong is said. */
async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer." : error.message);
  }
}

function say(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ($("toast").hidden = true), 6000);
}

async function picture(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error ?? "no picture");
  const [frame, time] = ["sttrack-frame", "sttrack-time"].map((name) => Number(answer.headers.get(name)));
  return { frame, time, image: await createImageBitmap(await answer.blob()) };
}

/** Pixels across that this screen can show, in steps, so that the server's pictures can be kept. */
function width() {
  const wanted = $("stage").clientWidth * (window.devicePixelRatio || 1);
  return Math.min(1920, Math.max(320, Math.ceil(wanted / 320) * 320));
}

// --- sources --------------------------------------------------------------------------------------------

async function welcome() {
  leave();
  history.replaceState(null, "", location.pathname);
  $("welcome").hidden = false;
  $("studio").hidden = $("change").hidden = true;
  $("title").textContent = "";
  document.title = "sttrack";
  const known = await json("GET", "api/sources");
  $("known").hidden = !known.length;
  $("known").querySelector("ul").replaceChildren(...known.map((one) => entry(one.title, one.live ? "live" : `${one.width} × ${one.height}`, () => open(one))));
  $("camera").hidden = !info.cameras;
  $("url").hidden = !info.urls;
  $("files").hidden = !info.files;
  if (info.files) await attempt(() => folder(""));
}

function entry(title, meta, action) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  for (const [text, name] of [[title, ""], [meta, "meta"]]) {
    const span = document.createElement("span");
    span.textContent = text;
    span.className = name;
    button.append(span);
  }
  button.onclick = () => attempt(action);
  item.append(button);
  return item;
}

async function folder(path) {
  const { folders, files } = await json("GET", `api/files?path=${encodeURIComponent(path)}`);
  const below = (name) => (path ? `${path}/${name}` : name);
  const parts = path ? path.split("/") : [];
  $("crumbs").replaceChildren(...["Files", ...parts].map((name, index) => {
    const button = document.createElement("button");
    button.className = "quiet";
    button.type = "button";
    button.textContent = name;
    button.onclick = () => attempt(() => folder(parts.slice(0, index).join("/")));
    return button;
  }));
  $("files").querySelector("ul").replaceChildren(
    ...folders.map((name) => entry(name, "folder", () => folder(below(name)))),
    ...files.map(({ name, bytes }) => entry(name, megabytes(bytes), async () => open(await json("POST", "api/sources", { file: below(name) })))),
    ...(path ? [entry("Open as a folder of images", "", async () => open(await json("POST", "api/sources", { file: path })))] : []),
  );
}

const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;

function upload(file) {
  if (file.size > info.limits.upload_bytes) return say(`${file.name} is larger than ${megabytes(info.limits.upload_bytes)}, the most this server takes.`);
  // Not fetch: it does not say how far an upload is.
  const request = new XMLHttpRequest();
  request.open("POST", `api/uploads?name=${encodeURIComponent(file.name)}`);
  $("upload").hidden = false;
  request.upload.onprogress = (event) => ($("upload").value = event.loaded / event.total);
  request.onloadend = () => {
    $("upload").hidden = true;
    $("upload").value = 0;
    $("file").value = "";
    let answer = null;
    try {
      answer = JSON.parse(request.responseText);
    } catch {
      // said below
    }
    if (request.status === 201) attempt(() => open(answer));
    else say(answer?.error ?? "The upload failed.");
  };
  request.send(file);
}

function leave() {
  session += 1;
  events?.close();
  events = source = track = shown = chosen = null;
  traces = new Map();
  following = playing = adding = false;
  pictures.clear();
  stage.image = null;
  stage.results = [];
  stage.drafts = [];
  stage.active = -1;
}

async function open(what) {
  leave();
  source = what;
  $("welcome").hidden = true;
  $("studio").hidden = $("change").hidden = false;
  $("title").textContent = source.title;
  document.title = `${source.title} · sttrack`;
  $("record").checked = false;
  stage.size = [source.width ?? 16, source.height ?? 9];
  shape();
  remember();
  refresh();
  if (source.live) follow();
  else await show(0);
}

function shape() {
  // On a narrow screen the picture takes its own height.
  const narrow = matchMedia("(max-width: 860px)").matches;
  const most = window.innerHeight * 0.62;
  $("frame").style.height = narrow ? `${Math.min(most, (window.innerWidth * stage.size[1]) / stage.size[0])}px` : "";
}

function remember() {
  history.replaceState(null, "", `#${new URLSearchParams({ source: source.id, ...(track && { track: track.id }) })}`);
}

// --- frames ---------------------------------------------------------------------------------------------

function fetchFrame(frame) {
  if (!pictures.has(frame)) {
    const promise = picture(`api/sources/${source.id}/frames/${frame}.jpg?width=${width()}`);
    promise.catch(() => pictures.delete(frame));
    pictures.set(frame, promise);
    if (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(frame);
}

async function show(frame) {
  show.wanted = frame;
  if (show.busy) return;
  show.busy = true;
  const mine = session;
  try {
    // Whatever is wanted by the time a picture is there, is fetched next.
    while (mine === session && !following && shown?.frame !== show.wanted) {
      const wanted = show.wanted;
      const got = await fetchFrame(wanted);
      if (mine === session && !following) display(got);
      if (got.frame !== wanted) break;
    }
  } catch (error) {
    if (mine === session) say(error.message);
  } finally {
    show.busy = false;
  }
  if (mine !== session && source && !source.live && !following) show(show.wanted);
}

function display(got) {
  shown = got;
  if (!source.width) {
    Object.assign(source, { width: got.image.width, height: got.image.height });
    json("GET", `api/sources/${source.id}`).then((now) => {
      Object.assign(source, now);
      stage.size = [source.width, source.height];
      shape();
      stage.draw();
    });
    stage.size = [source.width, source.height];
    shape();
  }
  stage.image = got.image;
  overlay();
}

function overlay() {
  if (!shown) return;
  stage.results = [...traces].flatMap(([number, trace]) => {
    const found = trace.get(shown.frame);
    return found ? [{ number, ...found }] : [];
  });
  stage.many = (track?.targets.length ?? 0) > 1;
  stage.draw();
  const all = stage.results;
  $("banner").hidden = !(all.length && all.every((result) => result.lost));
  timeline();
  list();
}

function timeline() {
  chart.traces = traces;
  chart.frame = shown?.frame ?? 0;
  chart.live = source.live;
  if (source.live) chart.span = [Math.max(0, chart.frame - LIVE_SPAN), Math.max(LIVE_SPAN, chart.frame)];
  else chart.span = [0, Math.max(1, (source.frames ?? 1) - 1)];
  chart.marks = (track?.targets ?? []).flatMap((target) => target.given.map((given) => given.frame));
  chart.draw();
  const slider = $("chart");
  slider.setAttribute("aria-valuemax", chart.span[1]);
  slider.setAttribute("aria-valuenow", chart.frame);
  const seconds = shown ? shown.time : 0;
  const clock = `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
  const of = source.live || source.frames === null ? "" : ` of ${source.frames - 1}`;
  $("clock").textContent = `${clock}  ·  frame ${chart.frame}${of}`;
  slider.setAttribute("aria-valuetext", $("clock").textContent);
}

function seek(frame) {
  if (!source || source.live) return;
  following = playing = false;
  refresh();
  show(Math.max(0, Math.min((source.frames ?? Infinity) - 1, frame)));
}

/** Shows the newest frame, again and again, as fast as the server and this screen go. */
async function follow() {
  if (following) return;
  following = true;
  playing = false;
  refresh();
  const mine = session;
  let failures = 0;
  while (mine === session && following) {
    const path = track && !source.live ? `api/tracks/${track.id}` : `api/sources/${source.id}`;
    try {
      const after = shown && !shown.first ? shown.frame : -1;
      // Asked before the picture is: one that was on its way when the track ended is not yet the last.
      const ended = track && !source.live && !ACTIVE(track.state);
      const got = await picture(`${path}/snapshot.jpg?after=${after}&width=${width()}`);
      failures = 0;
      if (mine !== session || !following) return;
      display(got);
      if (ended) break;
      if (got.frame === after) await pause(200);
    } catch (error) {
      if (mine !== session || !following) return;
      failures += 1;
      if (failures > 3) {
        say(error.message);
        break;
      }
      await pause(500);
    }
  }
  if (mine === session && following) {
    following = false;
    refresh();
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function play() {
  if (playing || source.live) return;
  playing = true;
  following = false;
  refresh();
  const mine = session;
  const last = (source.frames ?? Infinity) - 1;
  let frame = shown && shown.frame < last ? shown.frame + 1 : 0;
  const began = performance.now();
  const first = frame;
  try {
    while (mine === session && playing && frame <= last) {
      for (let next = frame; next < Math.min(frame + AHEAD, last + 1); next++) fetchFrame(next);
      const got = await fetchFrame(frame);
      const wait = began + ((frame - first) * 1000) / (source.fps ?? 25) - performance.now();
      if (wait > 0) await pause(wait);
      if (mine !== session || !playing) return;
      display(got);
      frame += 1;
    }
  } catch {
    // the end, where the number of frames was an estimate
  }
  if (mine === session) {
    playing = false;
    refresh();
  }
}

// --- boxes ----------------------------------------------------------------------------------------------

/** A box is begun on the picture: what is it for? Returns its place in the drafts. */
function beginBox(box) {
  freeze();
  const target = track && !adding && chosen !== null ? chosen : null;
  adding = false;
  const again = target === null ? -1 : stage.drafts.findIndex((draft) => draft.target === target);
  if (again >= 0) stage.drafts[again].box = box;
  else stage.drafts.push({ box, target, number: target ?? nextNumber() });
  stage.active = again >= 0 ? again : stage.drafts.length - 1;
  refresh();
  return stage.active;
}

function nextNumber() {
  const used = [...(track?.targets ?? []).map((target) => target.id), ...stage.drafts.map((draft) => draft.number)];
  return Math.max(0, ...used) + 1;
}

/** Holds the picture still to draw on: playback ends, a running track is paused, a live frame is kept. */
function freeze() {
  playing = false;
  if (!following) return;
  following = false;
  if (source.live) {
    const mine = session;
    const kept = shown.frame;
    attempt(async () => {
      try {
        await call("POST", `api/sources/${source.id}/hold`, { frame: kept });
      } catch {
        const newest = await picture(`api/sources/${source.id}/hold?width=${width()}`, { method: "POST" });
        if (mine === session) display(newest);
      }
    });
  } else if (track && ACTIVE(track.state)) attempt(() => act("pause"));
}

function newBox() {
  if (!shown) return;
  adding = true;
  const [width, height] = stage.size;
  beginBox(stage.inside([width * 0.4, height * 0.4, width * 0.2, height * 0.2]));
  $("stage").focus();
  stage.draw();
}

function correct(number) {
  const found = traces.get(number)?.get(shown?.frame);
  const trace = [...(traces.get(number)?.values() ?? [])];
  const box = found?.box ?? trace[trace.length - 1]?.box ?? stage.inside([stage.size[0] * 0.4, stage.size[1] * 0.4, stage.size[0] * 0.2, stage.size[1] * 0.2]);
  choose(number);
  beginBox(stage.inside(box));
  $("stage").focus();
  stage.draw();
}

/** The target that is most likely wrong on the frame shown. */
function doubtful() {
  const sure = (target) => traces.get(target.id)?.get(shown.frame)?.confidence ?? 1;
  return track.targets.reduce((a, b) => (sure(b) < sure(a) ? b : a)).id;
}

function removeDraft(index) {
  stage.drafts.splice(index, 1);
  stage.active = stage.drafts.length - 1;
  stage.draw();
  refresh();
  if (source.live && !stage.drafts.length) follow();
}

function choose(number) {
  chosen = number;
  const draft = stage.drafts.findIndex((one) => one.number === number);
  if (draft >= 0) stage.active = draft;
  stage.draw();
  refresh();
}

// --- tracks ---------------------------------------------------------------------------------------------

async function go() {
  if (!$("go").disabled) await attempt(begin);
}

async function begin() {
  const drafts = stage.drafts;
  if (track && ACTIVE(track.state) && !drafts.length) return act("pause");
  if (!track) {
    const record = source.live && $("record").checked;
    const made = await json("POST", "api/tracks", { source: source.id, frame: shown.frame, boxes: drafts.map((draft) => draft.box), record });
    attach(made);
  } else if (!drafts.length && ["done", "failed"].includes(track.state)) return correct(chosen ?? doubtful());
  else if (!drafts.length) await act("resume");
  else {
    const frame = shown.frame;
    for (const [index, { target, box }] of drafts.entries()) {
      const resume = index === drafts.length - 1;
      const path = `api/tracks/${track.id}/${target === null ? "targets" : "correct"}`;
      update(await json("POST", path, target === null ? { frame, box, resume } : { target, frame, box, resume }));
    }
  }
  stage.drafts = [];
  stage.active = -1;
  // What is shown is the frame before tracking: the next one may have the same number.
  if (shown) shown.first = true;
  follow();
}

function attach(made) {
  track = made;
  session += 1;
  following = playing = false;
  traces = new Map();
  remember();
  chosen = made.targets.length === 1 ? 1 : null;
  listen(0);
  refresh();
}

function listen(after) {
  events?.close();
  const stream = (events = new EventSource(`api/tracks/${track.id}/events?after=${after}`));
  stream.onmessage = (event) => {
    for (const line of event.data.split("\n")) {
      const found = JSON.parse(line);
      if (!traces.has(found.id)) traces.set(found.id, new Map());
      const trace = traces.get(found.id);
      trace.set(found.frame, found);
      if (source.live && trace.size > 4 * LIVE_SPAN) trace.delete(trace.keys().next().value);
    }
    later();
  };
  stream.addEventListener("state", (event) => update(JSON.parse(event.data)));
  stream.addEventListener("rewind", (event) => {
    const { targets, frame } = JSON.parse(event.data);
    for (const target of targets) for (const one of [...(traces.get(target)?.keys() ?? [])]) if (one >= frame) traces.get(target).delete(one);
    later();
  });
  stream.addEventListener("gap", () => attempt(catchUp));
  stream.onerror = () => stream.readyState === EventSource.CLOSED && say("The track is not on the server any more.");
}

/** Everything at once, after which the events go on. */
async function catchUp() {
  const answer = await call("GET", `api/tracks/${track.id}/results`);
  const sequence = answer.headers.get("sttrack-sequence");
  traces = new Map();
  for (const line of (await answer.text()).split("\n")) {
    if (!line) continue;
    const found = JSON.parse(line);
    if (!traces.has(found.id)) traces.set(found.id, new Map());
    traces.get(found.id).set(found.frame, found);
  }
  listen(sequence);
  later();
}

/** One redraw for all that comes within a frame of the screen. */
function later() {
  later.pending ??= requestAnimationFrame(() => {
    later.pending = null;
    if (!source) return;
    if (traces.size && $("downloads").hidden) refresh();
    overlay();
  });
}

function update(now) {
  // An answer may come after the event that tells what happened since.
  if (!track || now.id !== track.id || now.sequence < track.sequence) return;
  const before = track.state;
  track = now;
  if (now.state === "done" && before === "running" && source && !source.live)
    json("GET", `api/sources/${source.id}`).then((fresh) => source?.id === fresh.id && Object.assign(source, fresh)).catch(() => {});
  refresh();
  later();
}

async function act(action) {
  update(await json("POST", `api/tracks/${track.id}/${action}`));
  if (ACTIVE(track.state)) {
    stage.drafts = [];
    if (shown) shown.first = true;
    follow();
  } else if (!source.live) following = false;
  refresh();
}

async function newTrack() {
  const old = track;
  events?.close();
  events = track = chosen = null;
  session += 1;
  following = playing = adding = false;
  traces = new Map();
  remember();
  refresh();
  overlay();
  if (source.live) follow();
  await call("DELETE", `api/tracks/${old.id}`);
}

// --- the panel ------------------------------------------------------------------------------------------

const WORDS = {
  running: "Tracking…",
  paused: "Paused. Draw or correct a box to go on from here.",
  done: "Done. Where it is wrong, draw the box again and track on from there.",
  several: "Choose the target that is wrong, then draw its box again. With none chosen, a box is a new target.",
  stopped: "Stopped. The results so far are kept.",
  failed: "Failed",
};

function refresh() {
  if (!source) return;
  const drafts = stage.drafts.length;
  const state = track?.state;
  const running = ACTIVE(state);
  const button = $("go");
  button.textContent = running && !drafts ? "Pause" : track ? (drafts ? "Track on from here" : ["done", "failed"].includes(state) ? "Correct a box" : "Go on") : drafts > 1 ? `Track ${drafts} targets` : "Track";
  button.disabled = !shown || (!track && !drafts);
  $("stop").hidden = !track;
  $("stop").textContent = running || state === "paused" ? "Stop" : "New track";
  $("restart").hidden = !track || source.live;
  $("state").textContent = !track ? "" : state === "failed" ? `Failed: ${track.message}` : state === "stopped" && track.message ? `Stopped: ${track.message}.` : WORDS[state];
  if (["paused", "done"].includes(state) && !drafts && chosen === null && track.targets.length > 1) $("state").textContent = `${WORDS[state].split(".")[0]}. ${WORDS.several}`;
  $("recording").hidden = !source.live || Boolean(track);
  $("play").classList.toggle("playing", playing || following);
  $("play").setAttribute("aria-label", playing || following ? "Pause" : "Play");
  $("back").hidden = $("forward").hidden = source.live;
  $("follow").hidden = following || !running;
  $("add").hidden = Boolean(track) && running && !source.live;
  const hint = drafts || track ? "" : source.live && following ? "Drag on the picture: it holds still while you draw" : "Drag a box around what to follow";
  $("hint").textContent = shown ? hint : source.live ? "Waiting for the first frame…" : "";
  $("downloads").hidden = !traces.size;
  if (traces.size) downloads();
  list();
}

function list() {
  const targets = track?.targets ?? [];
  const rows = targets.map((target) => {
    const draft = stage.drafts.findIndex((one) => one.target === target.id);
    const found = traces.get(target.id)?.get(shown?.frame);
    return { key: `t${target.id}`, number: target.id, name: `Target ${target.id}`, found, draft, target: target.id };
  });
  stage.drafts.forEach((draft, index) => {
    if (draft.target === null) rows.push({ key: `d${draft.number}`, number: draft.number, name: `Box ${draft.number}`, draft: index, target: null });
  });
  const box = $("targets");
  const old = new Map([...box.children].map((item) => [item.dataset.key, item]));
  const items = rows.map((row) => fill(old.get(row.key) ?? rowItem(row.key), row));
  // Only what changed: buttons keep their focus while numbers run.
  if (items.length !== box.children.length || items.some((item, index) => box.children[index] !== item)) box.replaceChildren(...items);
}

function rowItem(key) {
  const item = document.createElement("li");
  item.dataset.key = key;
  for (const [tag, name] of [["span", "dot"], ["button", "name"], ["span", "value"], ["button", "edit quiet"]]) {
    const part = document.createElement(tag);
    part.className = name;
    item.append(part);
  }
  return item;
}

function fill(item, { number, name, found, draft, target }) {
  const [dot, title, value, edit] = item.children;
  dot.style.setProperty("--dot", colorOf(number));
  set(title, name);
  const text = draft >= 0 ? stage.drafts[draft].box.slice(2).map(Math.round).join(" × ") : found ? (found.lost ? "LOST" : found.confidence.toFixed(2)) : "–";
  set(value, text);
  value.classList.toggle("lost", draft < 0 && Boolean(found?.lost));
  set(edit, draft < 0 ? "Correct" : target === null ? "Remove" : "Cancel");
  item.classList.toggle("chosen", target !== null ? chosen === target : stage.active === draft);
  title.setAttribute("aria-pressed", item.classList.contains("chosen"));
  item.onclick = () => choose(number);
  edit.onclick = (event) => {
    event.stopPropagation();
    const index = stage.drafts.findIndex((one) => one.number === number);
    if (index >= 0) removeDraft(index);
    else correct(target);
  };
  return item;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function downloads() {
  const targets = track.targets.map((target) => target.id);
  const key = `${track.id} ${targets}`;
  if (downloads.key === key) return;
  downloads.key = key;
  const file = (name, meta, path) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.className = "button";
    link.href = `api/tracks/${track.id}/files/${path}`;
    link.download = "";
    link.dataset.format = path;
    for (const [text, kind] of [[name, ""], [meta, "meta"]]) {
      const span = document.createElement("span");
      span.textContent = text;
      span.className = kind;
      link.append(span);
    }
    item.append(link);
    return item;
  };
  const video = entry("Annotated video", "MP4", saveVideo);
  video.querySelector("button").id = "video";
  const boxes = targets.map((id) => file(targets.length > 1 ? `Boxes of target ${id}` : "Boxes", "x,y,w,h", `boxes?target=${id}`));
  $("downloads").querySelector("ul").replaceChildren(video, ...boxes, ...info.formats.filter((form) => form.name !== "boxes").map((form) => file(form.title, form.meta, form.name)));
}

async function saveVideo() {
  const meta = $("video").querySelector(".meta");
  const mine = session;
  const path = `api/tracks/${track.id}/video`;
  try {
    for (;;) {
      const answer = await call("GET", path, undefined);
      if (mine !== session) return;
      if (answer.status !== 202) {
        answer.body?.cancel();
        break;
      }
      meta.textContent = `${Math.round((await answer.json()).progress * 100)} %`;
      await pause(500);
    }
    const link = document.createElement("a");
    link.href = path;
    link.download = "";
    link.click();
  } finally {
    meta.textContent = "MP4";
  }
}

// --- what the user does ---------------------------------------------------------------------------------

$("go").onclick = go;
$("stop").onclick = () => attempt(() => (ACTIVE(track.state) || track.state === "paused" ? act("stop") : newTrack()));
$("restart").onclick = () => attempt(() => act("restart"));
$("change").onclick = () => attempt(welcome);
$("add").onclick = newBox;
$("follow").onclick = follow;
$("back").onclick = () => shown && seek(shown.frame - 1);
$("forward").onclick = () => shown && seek(shown.frame + 1);
$("play").onclick = toggle;

function toggle() {
  if (playing || following) {
    const running = following && track && ACTIVE(track.state) && !source.live;
    playing = following = false;
    refresh();
    if (running) attempt(() => act("pause"));
  } else if (source.live) {
    stage.drafts = [];
    follow();
  } else if (track && ACTIVE(track.state)) follow();
  else play();
}

$("file").onchange = () => $("file").files[0] && upload($("file").files[0]);
$("drop").onkeydown = (event) => (event.key === "Enter" || event.key === " ") && $("file").click();
for (const name of ["dragover", "drop", "dragleave"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0] && !$("welcome").hidden) upload(event.dataTransfer.files[0]);
  });
$("camera").onsubmit = (event) => {
  event.preventDefault();
  attempt(async () => open(await json("POST", "api/sources", { camera: Number(new FormData(event.target).get("camera")) })));
};
$("url").onsubmit = (event) => {
  event.preventDefault();
  attempt(async () => open(await json("POST", "api/sources", { url: new FormData(event.target).get("url") })));
};

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  const at = event.target;
  if ($("studio").hidden || event.ctrlKey || event.metaKey || at.matches("input:not([type=checkbox])")) return;
  const step = STEPS[event.key];
  let used = true;
  if (step && at === $("chart") && step[1] === 0) seek(shown.frame + step[0] * (event.shiftKey ? 10 : 1));
  else if (step && (at === $("stage") || at === document.body)) {
    const by = event.altKey ? 1 : Math.max(1, Math.round(Math.min(...stage.size) / 60));
    used = stage.nudge(step[0] * by, step[1] * by, event.shiftKey);
  } else if (event.key === " " && !at.matches("button, a, summary, input")) toggle();
  else if (event.key === ",") $("back").click();
  else if (event.key === ".") $("forward").click();
  else if (event.key === "n" || event.key === "N") newBox();
  else if (event.key === "t" || event.key === "T") go();
  else if ((event.key === "c" || event.key === "C") && track && (chosen ?? track.targets[0]?.id)) correct(chosen ?? track.targets[0].id);
  else if ((event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") && stage.active >= 0) removeDraft(stage.active);
  else if (/^[1-9]$/.test(event.key)) choose(Number(event.key));
  else used = false;
  if (used) event.preventDefault();
});

addEventListener("resize", shape);

// --- beginning ------------------------------------------------------------------------------------------

async function start() {
  const began = session;
  info = await json("GET", "api/info");
  const hash = new URLSearchParams(location.hash.slice(1));
  if (hash.get("source")) {
    try {
      const what = await json("GET", `api/sources/${encodeURIComponent(hash.get("source"))}`);
      const old = hash.get("track") ? await json("GET", `api/tracks/${encodeURIComponent(hash.get("track"))}`).catch(() => null) : null;
      await open(what);
      if (old) {
        attach(old);
        await catchUp();
        if (ACTIVE(old.state)) follow();
      }
      return;
    } catch {
      // gone: begin anew
    }
  }
  const known = await json("GET", "api/sources");
  if (session !== began) return; // a video was chosen before the server answered: keep it
  if (known.length === 1 && !info.files) await open(known[0]);
  else await welcome();
}

attempt(start);
