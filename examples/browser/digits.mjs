/** Pictures of digits, and the held-out ones with what the network takes them for. */

const SHOWN = 70;

/** Paint an image of raw values, 0 to `full`, as black ink on nothing. */
export function paint(canvas, image, full) {
  const picture = new ImageData(canvas.width, canvas.height);
  image.forEach((value, pixel) => (picture.data[4 * pixel + 3] = (255 * value) / full));
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** The held-out digits as a list of buttons; `choose(number)` is called for the one that is pressed. */
export class HeldOut {
  #list;
  #samples;
  #full;
  #choose;
  #predicted = [];
  #cells = new Map();
  #onlyMistakes = false;

  constructor(list, { image, label }, full, choose) {
    this.#list = list;
    this.#samples = { image, label };
    this.#full = full;
    this.#choose = choose;
  }

  /** The values of one digit's image. */
  image(number) {
    const { shape, data } = this.#samples.image;
    const size = data.length / shape[0];
    return data.subarray(number * size, (number + 1) * size);
  }

  /** What a digit is. */
  label(number) {
    return Number(this.#samples.label.data[number]);
  }

  /** Show new predictions, one for each digit; return how many are wrong. */
  update(predicted) {
    this.#predicted = predicted;
    this.#show();
    return predicted.filter((digit, number) => digit !== this.label(number)).length;
  }

  /** Show only digits that are taken for another one, or the first ones of all. */
  set onlyMistakes(value) {
    this.#onlyMistakes = value;
    this.#show();
  }

  /** Mark the digit that was chosen, or none for null. */
  set chosen(number) {
    for (const [other, { button }] of this.#cells) button.classList.toggle("chosen", other === number);
  }

  #show() {
    const numbers = this.#predicted.map((_, number) => number);
    const isShown = (number) => !this.#onlyMistakes || this.#predicted[number] !== this.label(number);
    const cells = numbers.filter(isShown).slice(0, SHOWN).map((number) => this.#cell(number));
    const isSame = cells.length === this.#list.children.length && cells.every((cell, at) => cell === this.#list.children[at]);
    if (!isSame) this.#list.replaceChildren(...cells);
  }

  #cell(number) {
    if (!this.#cells.has(number)) this.#cells.set(number, this.#newCell(number));
    const { cell, button, caption } = this.#cells.get(number);
    const [digit, truth] = [this.#predicted[number], this.label(number)];
    const isWrong = digit !== truth;
    caption.textContent = isWrong ? `${digit} ✗` : digit;
    button.classList.toggle("wrong", isWrong);
    button.title = isWrong ? `a ${truth}, taken for ${digit}` : `a ${truth}`;
    button.setAttribute("aria-label", button.title);
    return cell;
  }

  #newCell(number) {
    const [cell, button] = [document.createElement("li"), document.createElement("button")];
    const [canvas, caption] = [document.createElement("canvas"), document.createElement("span")];
    const { shape } = this.#samples.image;
    [canvas.height, canvas.width] = shape.slice(-2);
    paint(canvas, this.image(number), this.#full);
    button.append(canvas, caption);
    button.addEventListener("click", () => this.#choose(number));
    cell.append(button);
    return { cell, button, caption };
  }
}
