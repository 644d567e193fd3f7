/** A canvas to draw on with mouse, pen or finger. */

const PEN = 0.07; // of the canvas' width; what the network sees does not depend on it

/** Keeps the strokes that were drawn, and calls `changed(strokes)` while they grow; points are shares of the width. */
export class Pad {
  #canvas;
  #strokes = [];
  #growing = null; // the stroke under the pen, and the pen's pointerId
  #changed;

  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.#growing) return; // a second finger draws nothing
      canvas.setPointerCapture(event.pointerId);
      this.#growing = { pointer: event.pointerId, stroke: [this.#point(event)] };
      this.#strokes.push(this.#growing.stroke);
      this.#update();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.#growing?.pointer) return;
      // A browser may give several places at once, of which the curve would miss all but the last.
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) this.#growing.stroke.push(this.#point(one));
      this.#update();
    });
    canvas.addEventListener("lostpointercapture", (event) => {
      if (event.pointerId === this.#growing?.pointer) this.#growing = null;
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Take all strokes away, one that is being drawn too. */
  clear() {
    this.#strokes = [];
    this.#growing = null;
    this.#draw();
  }

  #point({ clientX, clientY }) {
    const { left, top, width } = this.#canvas.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / width];
  }

  #update() {
    this.#draw();
    this.#changed(this.#strokes);
  }

  #draw() {
    const { width, height } = this.#canvas;
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.strokeStyle = getComputedStyle(this.#canvas).color;
    context.lineWidth = PEN * width;
    context.lineCap = context.lineJoin = "round";
    for (const [[x, y], ...rest] of this.#strokes) {
      context.beginPath();
      context.moveTo(x * width, y * width);
      context.lineTo(x * width, y * width);
      for (const [nextX, nextY] of rest) context.lineTo(nextX * width, nextY * width);
      context.stroke();
    }
  }
}
