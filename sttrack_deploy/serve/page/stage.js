// The picture with its boxes, and the confidence over time: two canvases that draw what they are given.

export const COLORS = ["#3cdc50", "#28a0ff", "#ffc828", "#f06ee6", "#3ce6e6", "#ff8c3c", "#966eff", "#c8f0aa"];
const LOST = "#f23a32";
const LEAST = 4; // pixels of the source: smaller is a click, not a box
const EDGE = 6; // pixels of the chart left and right of its frames
const HANDLE = 11; // pixels of the screen around a corner

export const colorOf = (number) => COLORS[(number - 1) % COLORS.length];

/** The same color, to be seen on white. */
function darker(hex) {
  const parts = [1, 3, 5].map((at) => Math.round(parseInt(hex.slice(at, at + 2), 16) * 0.66));
  return `rgb(${parts.join(" ")})`;
}

/** Fits a canvas to its element on this screen; returns the drawing context in CSS pixels. */
function fit(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * scale));
  const height = Math.max(1, Math.round(canvas.clientHeight * scale));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}

/**
 * Shows one frame and lets boxes be drawn on it.
 * Boxes are [x, y, w, h] in pixels of the source. `drafts` are being edited: {box, number, target}.
 */
export class Stage {
  constructor(canvas, { begin, change, choose }) {
    this.canvas = canvas;
    this.image = null;
    this.size = [16, 9];
    this.results = []; // {number, box, confidence, lost}
    this.drafts = [];
    this.active = -1;
    this.hooks = { begin, change, choose };
    this.drag = null;
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
      canvas.addEventListener(name, (event) => this[name](event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Where the picture lies in the element: {x, y, scale}. */
  get place() {
    const { clientWidth, clientHeight } = this.canvas;
    const scale = Math.min(clientWidth / this.size[0], clientHeight / this.size[1]);
    return { x: (clientWidth - this.size[0] * scale) / 2, y: (clientHeight - this.size[1] * scale) / 2, scale };
  }

  draw() {
    const context = fit(this.canvas);
    const { x, y, scale } = this.place;
    context.clearRect(0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    if (this.image) context.drawImage(this.image, x, y, this.size[0] * scale, this.size[1] * scale);
    const editing = new Set(this.drafts.map((draft) => draft.target));
    for (const result of this.results)
      this.box(context, result.box, result.lost ? LOST : colorOf(result.number), {
        dashed: result.lost, faint: editing.has(result.number),
        label: `${this.many ? `${result.number}  ` : ""}${result.lost ? "lost  " : ""}${result.confidence.toFixed(2)}`,
      });
    this.drafts.forEach((draft, index) =>
      this.box(context, draft.box, colorOf(draft.number), { label: draft.target ? `${draft.number}  corrected` : `${draft.number}`, handles: index === this.active }));
  }

  box(context, [bx, by, bw, bh], color, { dashed, faint, label, handles }) {
    const { x, y, scale } = this.place;
    const [left, top, width, height] = [x + bx * scale, y + by * scale, bw * scale, bh * scale];
    context.save();
    context.globalAlpha = faint ? 0.35 : 1;
    context.lineJoin = "round";
    context.setLineDash(dashed ? [9, 6] : []);
    for (const [ink, line] of [["rgb(10 14 18 / 65%)", 4.5], [color, 2.2]]) {
      context.strokeStyle = ink;
      context.lineWidth = line;
      context.strokeRect(left, top, width, height);
    }
    context.setLineDash([]);
    if (handles)
      for (const [cx, cy] of [[left, top], [left + width, top], [left, top + height], [left + width, top + height]]) {
        context.beginPath();
        context.arc(cx, cy, 5.5, 0, 7);
        context.fillStyle = "#fff";
        context.fill();
        context.lineWidth = 2;
        context.strokeStyle = color;
        context.stroke();
      }
    context.font = "600 12.5px system-ui, sans-serif";
    const room = context.measureText(label).width + 14;
    const at = top - 25 >= 2 ? top - 25 : Math.min(top + height + 5, this.canvas.clientHeight - 22);
    const from = Math.max(2, Math.min(left - 1, this.canvas.clientWidth - room - 2));
    context.fillStyle = color;
    context.beginPath();
    context.roundRect(from, at, room, 20, 6);
    context.fill();
    context.fillStyle = color === LOST ? "#fff" : "#0c1114";
    context.fillText(label, from + 7, at + 14.5);
    context.restore();
  }

  point(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const { x, y, scale } = this.place;
    const [px, py] = [(event.clientX - bounds.left - x) / scale, (event.clientY - bounds.top - y) / scale];
    return [Math.max(0, Math.min(this.size[0], px)), Math.max(0, Math.min(this.size[1], py))];
  }

  pointerdown(event) {
    if (event.button || !this.image) return;
    event.preventDefault();
    document.activeElement?.blur(); // the keys are for the picture now
    const point = this.point(event);
    const reach = (event.pointerType === "touch" ? 2.2 : 1) * HANDLE / this.place.scale;
    this.canvas.setPointerCapture(event.pointerId);
    // The box in hand first, then the others.
    const order = this.drafts.map((_, index) => index).sort((a, b) => (b === this.active) - (a === this.active));
    for (const index of order) {
      const [x, y, w, h] = this.drafts[index].box;
      for (const [cx, cy, ox, oy] of [[x, y, x + w, y + h], [x + w, y, x, y + h], [x, y + h, x + w, y], [x + w, y + h, x, y]])
        if (Math.abs(point[0] - cx) < reach && Math.abs(point[1] - cy) < reach) {
          this.active = index;
          this.drag = { kind: "corner", index, from: [ox, oy] };
          return this.draw();
        }
      if (point[0] > x && point[0] < x + w && point[1] > y && point[1] < y + h) {
        this.active = index;
        this.drag = { kind: "move", index, from: point, box: [x, y, w, h] };
        return this.draw();
      }
    }
    this.drag = { kind: "new", from: point };
  }

  pointermove(event) {
    if (!this.drag) return;
    const point = this.point(event);
    if (this.drag.kind === "move") {
      const [x, y, w, h] = this.drag.box;
      const [dx, dy] = [point[0] - this.drag.from[0], point[1] - this.drag.from[1]];
      this.drafts[this.drag.index].box = this.inside([x + dx, y + dy, w, h]);
    } else {
      const box = this.between(this.drag.from, point);
      if (this.drag.kind === "new") {
        if (box[2] < LEAST || box[3] < LEAST) return;
        this.drag = { kind: "corner", index: this.hooks.begin(box), from: this.drag.from };
      } else if (box[2] >= LEAST && box[3] >= LEAST) this.drafts[this.drag.index].box = box;
    }
    this.hooks.change();
    this.draw();
  }

  pointerup(event) {
    if (this.drag?.kind === "new") this.hooks.choose(this.hit(this.point(event)));
    this.drag = null;
  }

  pointercancel() {
    this.drag = null;
  }

  /** The number of the result whose box a point lies in; the smallest one. */
  hit([px, py]) {
    const hits = this.results.filter(({ box: [x, y, w, h] }) => px >= x && px <= x + w && py >= y && py <= y + h);
    return hits.sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3])[0]?.number ?? null;
  }

  between([ax, ay], [bx, by]) {
    return [Math.min(ax, bx), Math.min(ay, by), Math.abs(ax - bx), Math.abs(ay - by)].map((value) => Math.round(value * 10) / 10);
  }

  inside([x, y, w, h]) {
    const [width, height] = this.size;
    w = Math.max(LEAST, Math.min(w, width));
    h = Math.max(LEAST, Math.min(h, height));
    return [Math.max(0, Math.min(x, width - w)), Math.max(0, Math.min(y, height - h)), w, h].map((value) => Math.round(value * 10) / 10);
  }

  /** Moves or resizes the box in hand; steps in pixels of the source. */
  nudge(dx, dy, resize) {
    const draft = this.drafts[this.active];
    if (!draft) return false;
    const [x, y, w, h] = draft.box;
    draft.box = this.inside(resize ? [x, y, w + dx, h + dy] : [x + dx, y + dy, w, h]);
    this.hooks.change();
    this.draw();
    return true;
  }
}

/** Confidence by frame for each target, where it was lost, and the frame that is shown: also the slider. */
export class Chart {
  constructor(canvas, seek) {
    this.canvas = canvas;
    this.traces = new Map(); // number -> Map(frame -> result)
    this.span = [0, 1];
    this.frame = 0;
    this.marks = []; // frames that a box was given on
    this.live = false;
    const follow = (event) => seek(this.frameAt(event));
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.held = true;
      follow(event);
    });
    canvas.addEventListener("pointermove", (event) => this.held && follow(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (this.held = false));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  frameAt(event) {
    const bounds = this.canvas.getBoundingClientRect();
    const part = Math.max(0, Math.min(1, (event.clientX - bounds.left - EDGE) / (bounds.width - 2 * EDGE)));
    return Math.round(this.span[0] + part * (this.span[1] - this.span[0]));
  }

  draw() {
    const context = fit(this.canvas);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const style = getComputedStyle(document.documentElement);
    const ink = (name) => style.getPropertyValue(name).trim();
    const [first, last] = this.span;
    const x = (frame) => EDGE + ((frame - first) / Math.max(1, last - first)) * (width - 2 * EDGE);
    const base = height - 12;
    const y = (value) => base - value * (base - 6);
    context.clearRect(0, 0, width, height);
    context.lineWidth = 1;
    context.strokeStyle = ink("--grid");
    for (const value of [0, 0.5, 1]) {
      context.beginPath();
      context.moveTo(0, Math.round(y(value)) + 0.5);
      context.lineTo(width, Math.round(y(value)) + 0.5);
      context.stroke();
    }
    const step = Math.max(1, Math.floor((last - first) / (width * 2)));
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    for (const [number, trace] of this.traces) {
      context.strokeStyle = dark ? colorOf(number) : darker(colorOf(number));
      context.lineWidth = 1.8;
      context.lineJoin = "round";
      context.beginPath();
      let before = null;
      let lostFrom = null;
      const lost = [];
      for (let frame = first; frame <= last; frame += step) {
        const result = trace.get(frame);
        if (result) {
          if (before === null || before !== frame - step) context.moveTo(x(frame), y(result.confidence));
          else context.lineTo(x(frame), y(result.confidence));
          before = frame;
        }
        if (result?.lost && lostFrom === null) lostFrom = frame;
        if (!result?.lost && lostFrom !== null) {
          lost.push([lostFrom, frame]);
          lostFrom = null;
        }
      }
      if (lostFrom !== null) lost.push([lostFrom, last]);
      context.stroke();
      context.fillStyle = ink("--lost");
      for (const [from, to] of lost) {
        context.globalAlpha = 0.12;
        context.fillRect(x(from), 0, Math.max(1.5, x(to) - x(from)), base);
        context.globalAlpha = 1;
        context.fillRect(x(from), base + 5, Math.max(2, x(to) - x(from)), 4);
      }
    }
    context.fillStyle = ink("--soft");
    for (const frame of this.marks) {
      context.beginPath();
      context.moveTo(x(frame) - 4, 0);
      context.lineTo(x(frame) + 4, 0);
      context.lineTo(x(frame), 6);
      context.fill();
    }
    const at = x(this.frame);
    context.fillStyle = ink("--accent");
    context.fillRect(at - 1, 0, 2, height);
    context.beginPath();
    context.arc(at, height - 5, 5, 0, 7);
    context.fill();
    if (this.traces.size === 0) {
      context.fillStyle = ink("--soft");
      context.font = "13px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText(this.live ? "The confidence appears here." : width < 520 ? "Drag here to choose a frame." : "Drag here to find the frame to begin on. The confidence appears here.", width / 2, y(0.5) - 8);
      context.textAlign = "start";
    }
  }
}
