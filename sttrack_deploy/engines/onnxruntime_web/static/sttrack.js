// The tracker in a browser: what geometry.py, cropping.py and runtime/target.py compute, on ONNX Runtime Web.
//
// Every setting is read from the bundle's manifest. A frame is {width, height, data}: data RGBA, 8 bits, row by
// row, as CanvasRenderingContext2D.getImageData gives it. A box is [x, y, w, h] in pixels.

// Names of the graphs' fixed inputs and outputs; all others are state.
const TEMPLATE_IMAGE = "template_image", TEMPLATE_MASK = "template_mask";
const SEARCH_IMAGE = "search_image", SEARCH_MASK = "search_mask";
const BOX = "box", CONFIDENCE = "confidence";
const CLIP_MARGIN = 10; // pixels of every box that stay inside the image

// --- geometry.py ---------------------------------------------------------------------------------------

/** Python's round(): to the nearest whole number, half to even. */
export function roundHalfEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

function exactSide(box, factor) {
  const area = box[2] * box[3];
  if (!(area > 0)) throw new Error(`the box ${box} has no area; width and height must be greater than 0`);
  return Math.sqrt(area) * factor;
}

export function cropWindow(box, factor) {
  const side = Math.ceil(exactSide(box, factor));
  const corner = (start, length) => roundHalfEven(start + 0.5 * length - side * 0.5);
  return { x1: corner(box[0], box[2]), y1: corner(box[1], box[3]), side };
}

export function snappedWindow(box, factor, grid, scaleStep) {
  let exact = exactSide(box, factor);
  if (scaleStep > 0) exact = Math.exp(roundHalfEven(Math.log(exact) / scaleStep) * scaleStep);
  const side = Math.ceil(exact);
  const step = Math.max(1, roundHalfEven(side * grid));
  const corner = (middle) => roundHalfEven((middle - 0.5 * side) / step) * step;
  return { x1: corner(box[0] + 0.5 * box[2]), y1: corner(box[1] + 0.5 * box[3]), side };
}

/** The square about the middle of a box that crops are measured by when they count a margin in. */
export function contextBox(box, context) {
  const [x, y, w, h] = box, margin = context * (w + h), side = Math.sqrt((w + margin) * (h + margin));
  exactSide(box, 1);
  return [x + 0.5 * (w - side), y + 0.5 * (h - side), side, side];
}

export function boxFromWindow(corners, window) {
  const [x1, y1, x2, y2] = Array.from(corners, (value) => value * window.side);
  return [window.x1 + x1, window.y1 + y1, x2 - x1, y2 - y1];
}

export function boxFromCrop(corners, previous, searchSize, resizeFactor) {
  const scale = searchSize / resizeFactor, [x1, y1, x2, y2] = corners;
  const cx = 0.5 * (x1 + x2) * scale, cy = 0.5 * (y1 + y2) * scale;
  const w = (x2 - x1) * scale, h = (y2 - y1) * scale;
  const previousX = previous[0] + 0.5 * previous[2], previousY = previous[1] + 0.5 * previous[3];
  const half = 0.5 * scale;
  return [cx + previousX - half - 0.5 * w, cy + previousY - half - 0.5 * h, w, h];
}

export function clipBox(box, height, width, margin = CLIP_MARGIN) {
  const [x, y, w, h] = box;
  const x1 = Math.min(Math.max(0, x), width - margin), y1 = Math.min(Math.max(0, y), height - margin);
  const x2 = Math.min(Math.max(margin, x + w), width), y2 = Math.min(Math.max(margin, y + h), height);
  return [x1, y1, Math.max(margin, x2 - x1), Math.max(margin, y2 - y1)];
}

/** How far the center moved, [right, down]. */
const shift = (before, after) =>
  [0, 1].map((i) => after[i] + 0.5 * after[i + 2] - before[i] - 0.5 * before[i + 2]);

const LARGEST_CORRECTION = 0.3, SAME_TARGET = 0.25;

function iou(a, b) {
  const overlap = [0, 1].map((i) => Math.min(a[i] + a[i + 2], b[i] + b[i + 2]) - Math.max(a[i], b[i]));
  const common = Math.max(0, overlap[0]) * Math.max(0, overlap[1]);
  return common / (a[2] * a[3] + b[2] * b[3] - common);
}

/** The correction [x, y, width, height] that takes a predicted box part of the way to the given one. */
function correctionBetween(predicted, given, share) {
  if (share <= 0 || !(iou(predicted, given) >= SAME_TARGET)) return [0, 0, 0, 0];
  const moved = shift(predicted, given).map((step, i) => step / predicted[i + 2]);
  const scaled = [2, 3].map((i) => Math.log(given[i] / predicted[i]));
  return [...moved, ...scaled].map((value) => Math.max(-LARGEST_CORRECTION, Math.min(LARGEST_CORRECTION, share * value)));
}

function corrected([x, y, w, h], [dx, dy, logWidth, logHeight]) {
  const cx = x + (0.5 + dx) * w, cy = y + (0.5 + dy) * h;
  const width = w * Math.exp(logWidth), height = h * Math.exp(logHeight);
  return [cx - 0.5 * width, cy - 0.5 * height, width, height];
}

/** The part of a box inside the image, fit to start tracking on; throws where there is none. */
export function validateBox(box, height, width) {
  const [x, y, w, h] = box;
  if (box.length !== 4 || !box.every(Number.isFinite)) throw new Error(`the box ${box} is not four finite numbers x,y,w,h`);
  if (w <= 0 || h <= 0) throw new Error(`the box ${box} has no area; width and height must be greater than 0`);
  const x1 = Math.max(0, x), y1 = Math.max(0, y), x2 = Math.min(width, x + w), y2 = Math.min(height, y + h);
  if (x2 - x1 < 1 || y2 - y1 < 1) throw new Error(`the box ${box} has less than one pixel inside the image, which is ${width} x ${height}`);
  const inside = x1 === x && y1 === y && x2 === x + w && y2 === y + h;
  return inside ? [x, y, w, h] : [x1, y1, x2 - x1, y2 - y1];
}

// --- cropping.py ---------------------------------------------------------------------------------------

/**
 * The square of a frame, resized: {patch, mask, resizeFactor, window}.
 *
 * patch: Uint8Array (size, size, 3), RGB; mask: Uint8Array (size / stride, size / stride), 1 where the cell is
 * padding. Equal to cropping.cut_window bit for bit: OpenCV's bilinear resize of 8-bit images computes in fixed
 * point (11 bits for a weight, products cut to 16 bits before they are added), and halves by the mean of 2 x 2.
 */
export function cutWindow(frame, window, size, stride) {
  const { width, height } = frame, { x1, y1, side } = window;
  // The right and bottom pads carry the published + 1, which drops the image's last column and row.
  const left = Math.max(0, -x1), right = Math.max(0, x1 + side - width + 1);
  const top = Math.max(0, -y1), bottom = Math.max(0, y1 + side - height + 1);
  const cells = Math.floor(size / stride), resizeFactor = size / side;
  const patch = new Uint8Array(size * size * 3), mask = new Uint8Array(cells * cells);
  if (left + right >= side || top + bottom >= side) return { patch, mask: mask.fill(1), resizeFactor, window };
  resize(frame, window, { left, right, top, bottom }, size, patch);
  const columns = paddedCells(side, left, right, size, stride), rows = paddedCells(side, top, bottom, size, stride);
  for (let row = 0; row < cells; row++)
    for (let column = 0; column < cells; column++) mask[row * cells + column] = rows[row] | columns[column];
  return { patch, mask, resizeFactor, window };
}

/** For each pixel of a resized line: the first of its two source pixels, not clipped, and the second one's share. */
function sampling(side, size) {
  const first = new Int32Array(size), share = new Float32Array(size), scale = side / size;
  for (let i = 0; i < size; i++) {
    const place = Math.fround((i + 0.5) * scale - 0.5);
    first[i] = Math.floor(place);
    share[i] = place - first[i];
  }
  return { first, share };
}

function resize(frame, window, pad, size, patch) {
  const { width, data } = frame, { x1, y1, side } = window, last = side - 1;
  const inside = (row) => row >= pad.top && row < side - pad.bottom;
  const columnEnd = side - pad.right;
  const same = side === size, half = side === 2 * size;
  const { first, share } = sampling(side, size);
  const clipped = (place) => Math.min(Math.max(place, 0), last);
  const weight = (value) => roundHalfEven(value * 2048);
  // Columns: both source pixels (-1: padding) and their weights; beyond the border the nearest pixel counts alone.
  const columns = [new Int32Array(size), new Int32Array(size), new Int32Array(size), new Int32Array(size)];
  const address = (column) => (column >= pad.left && column < columnEnd ? (x1 + column) * 4 : -1);
  for (let i = 0; i < size; i++) {
    const beyond = first[i] < 0 || first[i] >= last;
    const start = same ? i : half ? 2 * i : clipped(first[i]);
    columns[0][i] = address(start);
    columns[1][i] = address(Math.min(start + 1, last));
    columns[2][i] = beyond ? 2048 : weight(Math.fround(1 - share[i]));
    columns[3][i] = beyond ? 0 : weight(share[i]);
  }
  const cache = new Map(); // source row -> its resized line, for the two rows that a line of the patch needs
  const line = (row) => {
    let values = cache.get(row);
    if (values === undefined) {
      if (cache.size > 3) cache.delete(cache.keys().next().value);
      values = new Int32Array(size * 3);
      if (inside(row)) {
        const base = (y1 + row) * width * 4, [a, b, wa, wb] = columns;
        for (let i = 0, o = 0; i < size; i++)
          for (let c = 0; c < 3; c++, o++) {
            const p = a[i] < 0 ? 0 : data[base + a[i] + c], q = b[i] < 0 ? 0 : data[base + b[i] + c];
            values[o] = same ? p : half ? p + q : p * wa[i] + q * wb[i];
          }
      }
      cache.set(row, values);
    }
    return values;
  };
  for (let row = 0, o = 0; row < size; row++) {
    const start = same ? row : half ? 2 * row : first[row];
    const above = line(clipped(start)), below = same ? above : line(clipped(start + 1));
    const wa = weight(Math.fround(1 - share[row])), wb = weight(share[row]);
    for (let i = 0; i < size * 3; i++, o++)
      patch[o] = same
        ? above[i]
        : half
          ? (above[i] + below[i] + 2) >> 2
          : (((wa * (above[i] >> 4)) >> 16) + ((wb * (below[i] >> 4)) >> 16) + 2) >> 2;
  }
}

/** Which cells along one axis are padding: the line of the padding, resized; any share of it counts. */
function paddedCells(side, before, after, size, stride) {
  const cells = new Uint8Array(Math.floor(size / stride));
  if (!before && !after) return cells;
  const padded = (place) => place < before || place >= side - after;
  const { first, share } = sampling(side, size);
  for (let cell = 0; cell < cells.length; cell++) {
    const at = cell * stride, start = Math.min(Math.max(first[at], 0), side - 1);
    const alone = side === size || first[at] < 0 || first[at] >= side - 1 || share[at] === 0;
    cells[cell] = padded(side === size ? at : start) || (!alone && padded(start + 1)) ? 1 : 0;
  }
  return cells;
}

/** What crops about a box are measured by; manifests made before there was a context have none. */
const measured = (box, crop) => (crop.context > 0 ? contextBox(box, crop.context) : box);

export function templateCrop(frame, box, crop) {
  return cutWindow(frame, cropWindow(measured(box, crop), crop.template_factor), crop.template_size, crop.stride);
}

export function searchCrop(frame, box, crop, growth = 1) {
  const factor = crop.search_factor * growth;
  const window = crop.search_grid > 0
    ? snappedWindow(measured(box, crop), factor, crop.search_grid, crop.search_scale_step)
    : cropWindow(measured(box, crop), factor);
  return cutWindow(frame, window, crop.search_size, crop.stride);
}

// --- the network ---------------------------------------------------------------------------------------

const BYTES = { float32: Float32Array, uint8: Uint8Array, bool: Uint8Array, int64: BigInt64Array, int32: Int32Array };

/** Both graphs of a bundle. A state is an object of tensors by the search graph's input names. */
export class Network {
  /** base: address of the bundle's folder; ort: the module of onnxruntime-web. */
  static async open(ort, base, threads = 1) {
    const answer = await fetch(new URL("manifest.json", base));
    if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${answer.statusText}`);
    const manifest = await answer.json();
    ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? threads : 1;
    const options = { executionProviders: ["wasm"] };
    // As on every CPU: Q/DQ with FP16 scales would be fused into something else.
    if (manifest.precision.name === "int8-fp16") options.extra = { session: { disable_quant_qdq: "1" } };
    const network = new Network();
    network.ort = ort;
    network.manifest = manifest;
    for (const graph of ["template", "search"])
      network[graph] = await ort.InferenceSession.create(new URL(manifest[graph].file, base).href, options);
    return network;
  }

  tensor(spec, values) {
    const batch = values.length / spec.shape.slice(1).reduce((a, b) => a * b, 1);
    return new this.ort.Tensor(spec.dtype, values, [batch, ...spec.shape.slice(1)]);
  }

  input(graph, name) {
    return this.manifest[graph].inputs.find((port) => port.name === name);
  }

  /** image: Uint8Array (B, size, size, 3); mask: Uint8Array (B, cells, cells). */
  async initialState(image, mask) {
    const outputs = await this.template.run({
      [TEMPLATE_IMAGE]: this.tensor(this.input("template", TEMPLATE_IMAGE), image),
      [TEMPLATE_MASK]: this.tensor(this.input("template", TEMPLATE_MASK), mask),
    });
    return Object.fromEntries(this.manifest.state.map((spec) => [spec.input, outputs[spec.initial]]));
  }

  /** The same for the search graph: {box: (B, 4), confidence: (B,), state}. */
  async step(image, mask, state) {
    const outputs = await this.search.run({
      [SEARCH_IMAGE]: this.tensor(this.input("search", SEARCH_IMAGE), image),
      [SEARCH_MASK]: this.tensor(this.input("search", SEARCH_MASK), mask),
      ...state,
    });
    const after = { ...state };
    for (const spec of this.manifest.state) if (spec.output) after[spec.input] = outputs[spec.output];
    return { box: outputs[BOX].data, confidence: outputs[CONFIDENCE].data, state: after };
  }

  /** A state from bytes by input name, and back: what an engine outside the browser exchanges. */
  stateOf(values) {
    const make = ([name, bytes]) => {
      const spec = this.input("search", name);
      return [name, this.tensor(spec, new BYTES[spec.dtype](bytes.buffer))];
    };
    return Object.fromEntries(Object.entries(values).map(make));
  }

  static bytesOf(state) {
    const bytes = (data) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return Object.fromEntries(Object.entries(state).map(([name, tensor]) => [name, bytes(tensor.data)]));
  }
}

// --- runtime/target.py, plausibility ---------------------------------------------------------------------------------

const FREE_JUMP = 0.25, FREE_CHANGE = 0.25, SLACK = 2, MEMORY = 0.2, TILE_STEP = 0.75, SIZE_MEMORY = 0.1;
const STEADY = 0.1, FASTEST = 0.8, NEWEST = 0.5;
const STILL = { jump: 0, change: 0 };

function motionBetween(before, after) {
  const side = Math.sqrt(before[2] * before[3]);
  const size = Math.abs(Math.log(Math.sqrt(after[2] * after[3]) / side));
  const aspect = Math.abs(Math.log(after[2] / after[3]) - Math.log(before[2] / before[3]));
  return { jump: Math.hypot(...shift(before, after)) / side, change: Math.expm1(Math.min(size + aspect, 50)) };
}

const remember = (recent, now) => ({
  jump: recent.jump + MEMORY * (now.jump - recent.jump),
  change: recent.change + MEMORY * (now.change - recent.change),
});

function velocityAfter(velocity, before, after, frames) {
  const size = Math.sqrt(before[2] * before[3]) * frames;
  const moved = shift(before, after);
  return velocity.map((old, i) => old + NEWEST * (moved[i] / size - old));
}

function ahead(box, velocity, lead) {
  const speed = Math.hypot(...velocity), [x, y, w, h] = box;
  if (speed <= STEADY || lead <= 0) return box;
  const step = lead * (1 - STEADY / speed) * Math.sqrt(w * h);
  const [dx, dy] = velocity.map((value) => step * Math.max(-FASTEST, Math.min(FASTEST, value)));
  return [x + dx, y + dy, w, h];
}

function plausibility(now, recent, jumpPenalty, changePenalty) {
  const jump = Math.max(0, now.jump - SLACK * recent.jump - FREE_JUMP);
  const change = Math.max(0, now.change - SLACK * recent.change - FREE_CHANGE);
  return Math.exp(-(jumpPenalty * jump + changePenalty * change));
}

function damped(before, found, place, size) {
  if (place >= 1 && size >= 1) return found;
  const [w, h] = [2, 3].map((i) => before[i] * (found[i] / before[i]) ** size);
  const [cx, cy] = [0, 1].map((i) => (1 - place) * (before[i] + 0.5 * before[i + 2]) + place * (found[i] + 0.5 * found[i + 2]));
  return [cx - 0.5 * w, cy - 0.5 * h, w, h];
}

function frameCenters(side, height, width, start) {
  const places = (length) => {
    const count = Math.max(1, Math.ceil((length - side) / (TILE_STEP * side)) + 1);
    if (count === 1) return [0.5 * length];
    return Array.from({ length: count }, (_, i) => 0.5 * side + (i * (length - side)) / (count - 1));
  };
  const all = places(height).flatMap((y) => places(width).map((x) => [x, y]));
  const far = ([x, y]) => Math.hypot(x - start[0], y - start[1]);
  return all.sort((a, b) => far(a) - far(b));
}

// --- runtime/target.py ---------------------------------------------------------------------------------

/** Where one target is believed to be; the same decisions as Python's Target, by the manifest's policy. */
export class Target {
  constructor(box, crop, policy) {
    Object.assign(this, { box, crop, policy, around: box, recent: STILL, seen: null });
    Object.assign(this, { lost: false, growth: 1, usualSize: Math.sqrt(box[2] * box[3]), heldFrames: 0 });
    Object.assign(this, { velocity: [0, 0], correction: [0, 0, 0, 0] });
  }

  template(frame) {
    return templateCrop(frame, this.box, this.crop);
  }

  search(frame) {
    this.around = this.region(frame.height, frame.width);
    this.seen = searchCrop(frame, this.around, this.crop, this.growth);
    return this.seen;
  }

  settle(corners, confidence, { width, height }) {
    const result = this.judge(clipBox(this.found(corners), height, width), confidence, height, width);
    this.believe(result);
    if (!this.correction.some(Boolean)) return result;
    return { ...result, box: clipBox(corrected(result.box, this.correction), height, width) };
  }

  /** Take the network's answer on the first frame, where the right box is known, to correct reported ones by. */
  learnCorrection(corners) {
    this.correction = correctionBetween(this.found(corners), this.box, this.policy.box_correction);
  }

  found(corners) {
    const { crop, seen } = this;
    return crop.search_grid > 0
      ? boxFromWindow(corners, seen.window)
      : boxFromCrop(corners, this.around, crop.search_size, seen.resizeFactor);
  }

  believe({ box, confidence, lost }) {
    const { policy } = this;
    this.lost = lost;
    if (this.holds(confidence, lost)) {
      // Keep looking around the last box that was believed, in a region that grows.
      const grown = this.growth * policy.growth; // starts over where it has become too wide, as in target.py
      this.growth = grown <= policy.max_growth ? grown : 1;
      this.heldFrames += 1;
      this.velocity = this.velocity.map((value) => 0.5 * value);
      return;
    }
    this.velocity = velocityAfter(this.velocity, this.box, box, 1 + this.heldFrames);
    Object.assign(this, { box, growth: 1, heldFrames: 0 });
    if (!lost && confidence >= policy.reliable_above)
      this.usualSize *= (Math.sqrt(box[2] * box[3]) / this.usualSize) ** SIZE_MEMORY;
  }

  holds(confidence, lost) {
    const { policy } = this;
    if (!policy.recovery) return false;
    if (policy.hold_below === null) return lost;
    const below = Math.min(policy.hold_below, policy.lost_below);
    const again = Math.round((policy.found_above - (policy.lost_below - below)) * 1e6) / 1e6;
    return !(confidence >= (this.heldFrames > 0 ? again : below));
  }

  judge(found, confidence, height, width) {
    const { policy } = this;
    let trusted = 1;
    if (policy.jump_penalty > 0 || policy.change_penalty > 0) {
      const frames = 1 + this.heldFrames, motion = motionBetween(this.box, found);
      const now = { jump: motion.jump / frames, change: motion.change / frames };
      if (!this.sweeping) trusted = plausibility(now, this.recent, policy.jump_penalty, policy.change_penalty);
      if (confidence >= Math.min(policy.hold_below ?? 1, policy.lost_below)) this.recent = remember(this.recent, now);
    }
    confidence *= trusted;
    const lost = !(confidence >= (this.lost ? policy.found_above : policy.lost_below));
    const smoothed = policy.size_smoothing > 0 && this.heldFrames === 0;
    const rate = smoothed ? (1 - policy.size_smoothing) * confidence : 1;
    const box = trusted < 1 || rate < 1
      ? clipBox(damped(this.box, found, trusted, Math.min(trusted, rate)), height, width)
      : found;
    return { box, confidence, lost };
  }

  get sweeping() {
    const after = this.policy.frame_after;
    return 0 < after && after <= this.heldFrames && (this.heldFrames - after) % 2 === 0;
  }

  region(height, width) {
    if (this.heldFrames === 0) return ahead(this.box, this.velocity, this.policy.lead);
    const { policy, crop } = this;
    let [x, y, w, h] = this.box, cx = x + 0.5 * w, cy = y + 0.5 * h, size = Math.sqrt(w * h);
    if (policy.reliable_above > 0 && this.usualSize > size) {
      [w, h] = [(w * this.usualSize) / size, (h * this.usualSize) / size];
      size = this.usualSize;
    } else if (!this.sweeping) return this.box;
    if (this.sweeping) {
      // Python measures by the context's square in any case; at 0 it is sqrt(w * h).
      const side = contextBox([cx, cy, w, h], crop.context ?? 0)[2];
      const centers = frameCenters(side * crop.search_factor * this.growth, height, width, [cx, cy]);
      [cx, cy] = centers[Math.floor((this.heldFrames - policy.frame_after) / 2) % centers.length];
    }
    return [cx - 0.5 * w, cy - 0.5 * h, w, h];
  }
}

// --- runtime/tracker.py --------------------------------------------------------------------------------

/** Settings of older manifests, which have no such fields; those of manifest.py. */
const POLICY = {
  hold_below: null,
  lead: 0,
  jump_penalty: 0,
  change_penalty: 0,
  size_smoothing: 0,
  box_correction: 0,
  reliable_above: 0,
  frame_after: 0,
};

/** Follows one target: await init(frame, box), then await update(frame) -> {box, confidence, lost}. */
export class Tracker {
  constructor(network, policy = network.manifest.tracking) {
    this.network = network;
    this.policy = { ...POLICY, ...policy };
    this.target = null;
  }

  /** A fixed batch is filled up with copies of the one crop. */
  filled(values) {
    const { batch } = this.network.manifest;
    if (!Number.isInteger(batch) || batch === 1) return values;
    const all = new Uint8Array(values.length * batch);
    for (let i = 0; i < batch; i++) all.set(values, i * values.length);
    return all;
  }

  async init(frame, box) {
    const valid = validateBox(box, frame.height, frame.width);
    const target = new Target(valid, this.network.manifest.crop, this.policy);
    const template = target.template(frame), start = [this.filled(template.patch), this.filled(template.mask)];
    if (this.policy.box_correction > 0) {
      const { patch, mask } = target.search(frame), fresh = await this.network.initialState(...start);
      const answer = await this.network.step(this.filled(patch), this.filled(mask), fresh);
      target.learnCorrection(Array.from(answer.box.slice(0, 4)));
    }
    this.state = await this.network.initialState(...start);
    this.size = [frame.width, frame.height];
    this.target = target;
    return { box: valid, confidence: 1, lost: false };
  }

  async update(frame) {
    if (this.target === null) throw new Error("the tracker has no target yet: call init(frame, box) first");
    if (frame.width !== this.size[0] || frame.height !== this.size[1])
      throw new Error(`the frame is ${frame.width} x ${frame.height}, the frames before were ${this.size.join(" x ")}`);
    const { patch, mask } = this.target.search(frame);
    const answer = await this.network.step(this.filled(patch), this.filled(mask), this.state);
    this.state = answer.state;
    return this.target.settle(Array.from(answer.box.slice(0, 4)), answer.confidence[0], frame);
  }
}
