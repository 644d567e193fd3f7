/** The page: shows what the worker tells, and tells it what the visitor wants. */

import { Chart, linearScale, logarithmicScale, percentScale } from "./chart.mjs";
import { HeldOut, paint } from "./digits.mjs";
import { Pad } from "./pad.mjs";
import { digitOf, resized } from "./strokes.mjs";

const NOTHING_CHOSEN = "Draw above, or choose one of the held-out digits.";
const DRAWN = { from: 8, to: 28 }; // sizes of a digit as the data have it, and as the network takes it

const element = (id) => document.getElementById(id);
const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
const whole = new Intl.NumberFormat("en");

const query = new URLSearchParams(location.search);
const worker = new Worker("worker.mjs", { type: "module" });
const tell = (type, values = {}) => worker.postMessage({ type, ...values });

let network = null;
let held = null;
let charts = null;
let shown = null; // the image whose probabilities are shown, and what is known of it
let asked = 0;

/** Set what the page as a whole is doing: loading, ready, training, paused, finished, diverged or failed, which lasts. */
function setState(state, text) {
  if (document.documentElement.dataset.state === "failed") return; // what was under way may still end
  document.documentElement.dataset.state = state;
  element("status").textContent = text;
  element("train").disabled = !["ready", "paused"].includes(state);
  element("train").textContent = state === "paused" ? "Go on" : "Train";
  element("pause").disabled = state !== "training";
  element("reset").disabled = !["training", "paused", "finished", "diverged"].includes(state);
  element("download").disabled = ["loading", "diverged", "failed"].includes(state);
}

function setStep(step) {
  element("step").textContent = `${step} / ${network.maxSteps}`;
  element("progress").value = step / network.maxSteps;
}

/** Say what went wrong, and the command that mends it, if there is one. */
function showFailure(message, command) {
  element("failure-text").textContent = message;
  element("failure-command").textContent = command ?? "";
  for (const id of ["failure-command", "failure-remedy"]) element(id).hidden = !command;
  element("failure").hidden = false;
}

function setReady() {
  setStep(network.firstStep);
  element("loss-chart").setAttribute("aria-label", "Loss by step: none yet");
  setState("ready", network.firstStep ? "Ready to go on from a checkpoint." : "Ready: the network knows nothing yet.");
}

const ANSWERS = {
  ready(message) {
    network = message;
    const { losses, trainingSamples, test, engine, notice, name, parameters, full } = message;
    const lossSeries = losses.map((loss, index) => ({ label: `${loss} (${index ? "companion" : "main"})` }));
    charts = {
      loss: new Chart(element("loss-chart"), element("loss-legend"), lossSeries, (values) => lossScale(values)),
      accuracy: new Chart(
        element("accuracy-chart"),
        element("accuracy-legend"),
        [{ label: `share of ${test.image.shape[0]} digits that is right` }],
        percentScale("accuracy"),
        { dots: true },
      ),
    };
    for (const chart of Object.values(charts)) chart.end = network.maxSteps;
    held = new HeldOut(element("digits"), test, full, choose);
    element("engine").textContent =
      `${name}: ${whole.format(parameters)} parameters, ${whole.format(trainingSamples)} training digits, ` +
      `${whole.format(test.image.shape[0])} held out; engine: ${engine}.`;
    element("notice").textContent = notice;
    element("notice").hidden = !notice;
    setReady();
  },
  step({ step, metrics, rate }) {
    setStep(step);
    const loss = metrics[network.losses[0]].toFixed(3);
    element("loss").textContent = loss;
    element("loss-chart").setAttribute("aria-label", `Loss by step: ${loss} after ${step} steps`);
    element("rate").textContent = whole.format(Math.round(rate));
    charts.loss.add(step, network.losses.map((loss) => metrics[loss]));
  },
  test({ step, metrics, predicted }) {
    const accuracy = metrics[network.accuracy];
    element("accuracy").textContent = percent(accuracy);
    charts.accuracy.add(step, [accuracy]);
    const wrong = held.update(predicted);
    element("held-note").textContent =
      "Below each one is what the network takes it for: " +
      `${wrong} ${wrong === 1 ? "mistake" : "mistakes"} in ${predicted.length}.`;
    element("accuracy-chart").setAttribute("aria-label", `Accuracy by step: ${percent(accuracy)} after ${step} steps`);
    if (shown) classify();
  },
  stopped({ finished }) {
    if (finished) setState("finished", "Finished. Reset starts anew from the same first weights.");
    else setState("paused", "Paused.");
  },
  reset() {
    for (const chart of Object.values(charts)) chart.clear();
    for (const id of ["loss", "rate"]) element(id).textContent = "–";
    element("failure").hidden = true; // of training that diverged
    setReady();
  },
  prediction({ id, probabilities }) {
    if (id === asked && shown) showProbabilities(probabilities);
  },
  weights({ bytes }) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = "weights.safetensors";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // when the browser has surely taken it
  },
  diverged({ message }) {
    showFailure(message);
    setState("diverged", "Diverged.");
  },
  failure({ message, command }) {
    showFailure(message, command);
    setState("failed", "Stopped.");
  },
};

function lossScale(values) {
  return (element("logarithmic").checked ? logarithmicScale : linearScale)("loss")(values);
}

function classify() {
  asked += 1;
  tell("predict", { id: asked, image: shown.image });
}

function choose(number) {
  pad.clear();
  element("pad-hint").hidden = false;
  show({ image: held.image(number).slice(), truth: held.label(number) });
  held.chosen = number;
}

function show(what) {
  shown = what;
  held.chosen = null;
  paint(element("seen"), what.image, network.full);
  classify();
}

function showProbabilities(probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  const verdict = element("verdict");
  verdict.replaceChildren("This looks like a ", Object.assign(document.createElement("b"), { textContent: best }));
  const sure = ` (${percent(probabilities[best])}).`;
  verdict.append(shown.truth === undefined || shown.truth === best ? sure : `${sure} It is a ${shown.truth}.`);
  [...element("bars").children].forEach((bar, digit) => {
    bar.classList.toggle("best", digit === best);
    bar.querySelector(".fill").style.transform = `scaleX(${probabilities[digit]})`;
    bar.lastElementChild.textContent = percent(probabilities[digit]);
  });
}

function clearDrawing() {
  shown = null;
  pad.clear();
  if (held) held.chosen = null;
  element("pad-hint").hidden = false;
  element("seen").getContext("2d").clearRect(0, 0, DRAWN.to, DRAWN.to);
  element("verdict").textContent = NOTHING_CHOSEN;
  for (const bar of element("bars").children) {
    bar.classList.remove("best");
    bar.querySelector(".fill").style.transform = "";
    bar.lastElementChild.textContent = "";
  }
}

function newBar(digit) {
  const [bar, label, track, fill, share] = ["li", "span", "div", "div", "span"].map((name) => document.createElement(name));
  label.textContent = digit;
  track.className = "track";
  fill.className = "fill";
  track.append(fill);
  bar.append(label, track, share);
  return bar;
}

/** Return the number of steps that the address asks for, as in ?steps=50; undefined leaves it to the spec. */
function stepsAsked() {
  const steps = Number(query.get("steps"));
  return Number.isInteger(steps) && steps > 0 ? steps : undefined;
}

element("bars").append(...Array.from({ length: 10 }, (_, digit) => newBar(digit)));
const pad = new Pad(element("pad"), (strokes) => {
  element("pad-hint").hidden = true;
  if (!network) return;
  const digit = digitOf(strokes, network.ink).map((count) => (count * network.full) / 16);
  show({ image: resized(digit, DRAWN.from, DRAWN.to) });
});

element("train").addEventListener("click", () => {
  setState("training", "Training …");
  tell("train");
});
for (const id of ["pause", "reset"]) element(id).addEventListener("click", () => tell(id));
element("download").addEventListener("click", () => tell("weights"));
element("clear").addEventListener("click", clearDrawing);
element("logarithmic").addEventListener("change", () => charts?.loss.redraw());
element("mistakes-only").addEventListener("change", ({ target }) => {
  if (held) held.onlyMistakes = target.checked;
});

worker.addEventListener("message", ({ data }) => ANSWERS[data.type](data));
worker.addEventListener("error", (event) => {
  event.preventDefault(); // said here instead
  ANSWERS.failure({ message: `The trainer could not be loaded${event.message ? `: ${event.message}` : ""}.`, command: null });
});
setState("loading", "Loading the network …");
tell("load", { engine: query.get("engine") === "webgpu" ? "webgpu" : "wasm", steps: stepsAsked() });
