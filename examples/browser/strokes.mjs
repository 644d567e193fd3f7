/**
 * A drawing made like the digits that the network learns from.
 *
 * Those were bitmaps of 32 x 32, scaled so that the digit has the full height, and counted in blocks of 4 x 4 pixels: 8 x 8
 * values from 0 to 16 (Alpaydin & Kaynak, 1998). Their scaling also made strokes the thicker the shorter the line is, so
 * that every digit has about the same amount of ink.
 */

const BITMAP = 32;
const BLOCK = 4;
const CELLS = BITMAP / BLOCK;
const WIDEST = 28; // of the training digits, which leave the outermost columns empty
const ROUNDS = 6; // after which thickness and scale, each of which depends on the other, have settled

/**
 * Return 8 x 8 values (Float32Array) from 0 to 16 of strokes, each an array of points [x, y] in any unit.
 *
 * `ink` is the share of the bitmap to cover.
 */
export function digitOf(strokes, ink) {
  const points = strokes.flat();
  const range = (axis) => {
    const values = points.map((point) => point[axis]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { size: high - low, centre: (low + high) / 2 };
  };
  const [x, y] = [range(0), range(1)];
  let thickness = BLOCK;
  let distances;
  for (let round = 0; round < ROUNDS; round++) {
    const scale = Math.min((BITMAP - thickness) / y.size, (WIDEST - thickness) / x.size);
    const centred = (value, { size, centre }) => (size ? (value - centre) * scale : 0) + BITMAP / 2; // a dot has no size
    const place = ([px, py]) => [centred(px, x), centred(py, y)];
    distances = distancesTo(strokes.map((stroke) => stroke.map(place)));
    thickness = 2 * distances.slice().sort()[Math.round(ink * distances.length)];
  }
  const digit = new Float32Array(CELLS * CELLS);
  distances.forEach((distance, pixel) => {
    const [row, column] = [Math.floor(pixel / BITMAP), pixel % BITMAP];
    if (2 * distance < thickness) digit[Math.floor(row / BLOCK) * CELLS + Math.floor(column / BLOCK)] += 1;
  });
  return digit;
}

/** Return a square image of `from` x `from` resized to `to` x `to`: bilinear, half-pixel centres, as netc does. */
export function resized(image, from, to) {
  const taps = Array.from({ length: to }, (_, index) => {
    const centre = Math.max((index + 0.5) * (from / to) - 0.5, 0);
    const first = Math.min(Math.floor(centre), from - 1);
    return { first, second: Math.min(first + 1, from - 1), share: centre - first };
  });
  const mix = (a, b, share) => a * (1 - share) + b * share;
  const result = new Float32Array(to * to);
  taps.forEach((row, y) => {
    taps.forEach((column, x) => {
      const [left, right] = [column.first, column.second].map((at) =>
        mix(image[row.first * from + at], image[row.second * from + at], row.share),
      );
      result[y * to + x] = mix(left, right, column.share);
    });
  });
  return result;
}

/** Return the distance of each pixel's centre from the nearest stroke. */
function distancesTo(strokes) {
  const segments = strokes.flatMap((stroke) => stroke.map((point, index) => [stroke[Math.max(index - 1, 0)], point]));
  return Float32Array.from({ length: BITMAP * BITMAP }, (_, pixel) => {
    const [px, py] = [(pixel % BITMAP) + 0.5, Math.floor(pixel / BITMAP) + 0.5];
    let nearest = Infinity;
    for (const [[ax, ay], [bx, by]] of segments) {
      const [dx, dy] = [bx - ax, by - ay];
      const along = ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1);
      const part = Math.min(Math.max(along, 0), 1);
      nearest = Math.min(nearest, Math.hypot(px - ax - part * dx, py - ay - part * dy));
    }
    return nearest;
  });
}
