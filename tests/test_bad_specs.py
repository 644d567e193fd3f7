"""What users get wrong in a spec: for each mistake the exact message, its place, the exit code, and nothing left behind."""

# ruff: noqa: E501 (a row is a line, and messages are whole sentences)

from pathlib import Path

import pytest

from netc.layers import LAYERS
from tests.command_line import Netc
from tests.small_spec import ACCURACY, LABEL, LOSS, POOL, SPEC, edited, files

KNOWN_LAYERS = ", ".join(sorted(LAYERS.members))
FIT = "use a smaller kernel, more padding or less pooling before it"
HOLDS = "more than the 2,147,483,647 that a tensor can hold"


# -- mistakes in a spec, each an edit of SPEC; messages without "error: spec.yaml:" -----------------

BAD_SPECS: list[tuple[str, list[tuple[str, str]], list[str]]] = [
    # unknown and missing names
    ("unknown layer", [("Pooling", "Poolling")], ['11:24: unknown layer type "Poolling"; did you mean "Pooling"?']),
    ("layer type of a number", [("Pooling", "5")], [f"11:24: unknown layer type 5; known: {KNOWN_LAYERS}"]),
    ("layer type of a list", [("Pooling", "[a]")], [f"11:24: unknown layer type a list of 1; known: {KNOWN_LAYERS}"]),
    ("layer without type", [("type: Pooling, ", "")], [f'11:5: this layer has no "type"; known: {KNOWN_LAYERS}']),
    ("layer of a word", [(POOL, "ReLU")], ['11:5: this layer should be a mapping such as {type: ReLU}, not "ReLU"']),
    ("layer of nothing", [(f" {POOL}", "")], ["11:4: this layer should be a mapping such as {type: ReLU}, not nothing"]),
    ("unknown field of a layer, which is no missing one besides", [("kernel_size: 3", "kernal_size: 3")], ['10:52: Convolution has no field "kernal_size"; did you mean "kernel_size"?']),
    ("missing field of a layer", [("num_output: 4, ", "")], ['10:5: Convolution: the field "num_output" is required']),
    ("unknown field of the spec", [("name: small", "name: small\nsolvr: 1")], ['3:1: the spec has no field "solvr"; did you mean "solver"?']),
    ("Caffe's top", [("kernel_size: 3", "kernel_size: 3, top: x")], ['10:68: Convolution has no field "top"; the top of a layer is called like the layer']),
    ("Caffe's kernel_h", [("kernel_size: 3", "kernel_size: 3, kernel_h: 3")], ['10:68: Convolution has no field "kernel_h"; write kernel_size: [h, w]']),
    ("Caffe's nested parameters", [("kernel_size: 3", "kernel_size: 3, convolution_param: {}")], ['10:68: Convolution has no field "convolution_param"; write its fields directly into the layer']),
    ("Caffe's AVE", [(POOL, "{type: Pooling, pool: AVE, kernel_size: 2}")], ["11:27: pool: expected 'max' or 'average', got \"AVE\"; did you mean \"average\"?"]),
    ("unknown field like no other", [("name: small", "name: small\nfoo: 1")], ['3:1: the spec has no field "foo"; known: data, freeze, fuse, init_from, inputs, layers, lr_mult, name, netc, phases, reinit, run, solver']),
    ("misspelt section", [("layers:", "lyers:")], ['9:1: the spec has no field "lyers"; did you mean "layers"?']),
    ("missing name", [("name: small\n", "")], ['1:1: the spec: the field "name" is required']),
    ("missing version", [("netc: 1\n", "")], ['1:1: the spec: the field "netc" is required']),
    ("missing data", [("data:\n  source: digits\n  batch_size: 20\n", "")], ['1:1: the spec: the field "data" is required']),
    ("unknown field of the solver", [("type: SGD", "type: SGD\n  momentun: 0.9")], ['17:3: SGD has no field "momentun"; did you mean "momentum"?']),
    ("missing field of the solver", [("  base_lr: 0.01\n", "")], ['16:3: SGD: the field "base_lr" is required']),
    ("unknown solver", [("SGD", "SDG")], ['16:9: unknown solver type "SDG"; did you mean "SGD"?']),
    ("solver without type", [("  type: SGD\n", "")], ['16:3: this solver has no "type"; known: AdaDelta, AdaGrad, Adam, AdamW, LARS, Lion, Nesterov, RMSProp, SGD']),
    ("unknown field of data", [("source: digits", "source: digits\n  batchsize: 4")], ['8:3: unknown option "batchsize" of the source "digits"; did you mean "batch_size"?']),
    ("misspelt source", [("source:", "sorce:")], ['7:3: data has no field "sorce"; did you mean "source"?']),
    ("field of another source", [("source: digits", "source: digits\n  path: /x")], ['8:3: unknown option "path" of the source "digits"; known: augment, batch_size, classes, limit, mean, range, resident, resize, scale, source, split, std, test_views']),
    ("unknown source", [("source: digits", "source: digit")], ['7:11: unknown source "digit"; did you mean "digits"?']),
    ("path that is no text", [("source: digits", "source: mnist\n  path: 5")], ["8:9: path should be the folder with the four IDX files, as a text, not 5"]),
    ("unknown filler", [("kernel_size: 3", "kernel_size: 3, weight_filler: xaver")], ['10:83: unknown filler type "xaver"; did you mean "xavier"?']),
    ("unknown field of a filler", [("kernel_size: 3", "kernel_size: 3, weight_filler: {type: gaussian, sd: 1}")], ['10:100: gaussian has no field "sd"; did you mean "std"?']),
    ("filler of a number", [("kernel_size: 3", "kernel_size: 3, weight_filler: 5")], ["10:83: this filler should be a mapping such as {type: constant}, not 5"]),
    ("filler upside down", [("kernel_size: 3", "kernel_size: 3, weight_filler: {type: uniform, min: 2, max: 1}")], ["10:83: uniform: min 2 is larger than max 1; exchange them"]),
    ("unknown lr_policy", [("base_lr: 0.01", "base_lr: 0.01\n  lr_policy: stp")], ['18:14: unknown lr_policy type "stp"; did you mean "step"?']),
    ("unknown field of an lr_policy", [("base_lr: 0.01", "base_lr: 0.01\n  lr_policy: {type: step, gama: 0.1, stepsize: 5}")], ['18:27: step has no field "gama"; did you mean "gamma"?']),
    ("warm-up without length", [("base_lr: 0.01", "base_lr: 0.01\n  lr_policy: {type: cosine, warmup_start: 0.1}")], ['18:14: warmup_start 0.1 says where a warm-up begins; give warmup_steps too']),
    ("stepvalue that falls", [("base_lr: 0.01", "base_lr: 0.01\n  lr_policy: {type: multistep, gamma: 0.1, stepvalue: [20, 10]}")], ['18:14: stepvalue: must be above 0 and rise from entry to entry, got 20, 10']),
    ("plateau of an unknown metric", [("base_lr: 0.01", "base_lr: 0.01\n  lr_policy: {type: plateau, monitor: accuarcy}")], ['18:39: evaluation has no metric "accuarcy"; did you mean "accuracy"?']),
    ("Caffe's clipping", [("base_lr: 0.01", "base_lr: 0.01\n  clip_gradients: 35")], ['18:3: SGD has no field "clip_gradients"; write clip_norm']),
    ("clipping to nothing", [("base_lr: 0.01", "base_lr: 0.01\n  clip_norm: 0.0")], ['18:14: clip_norm: must be greater than 0, got 0.0']),
    ("average of all time", [("base_lr: 0.01", "base_lr: 0.01\n  weight_average: 1.0")], ['18:19: weight_average: must be less than 1, got 1.0']),
    ("missing fields of an lr_policy", [("base_lr: 0.01", "base_lr: 0.01\n  lr_policy: step")], ['18:14: step: the field "gamma" is required', '18:14: step: the field "stepsize" is required']),
    ("unknown field of a side", [(POOL, "{type: ReLU, side: {layer: []}}")], ['11:25: side has no field "layer"; did you mean "layers"?']),
    ("unknown schedule of a side", [(POOL, "{type: ReLU, side: {loss_weight: {policy: lin, start: 1}, layers: [{type: SoftmaxWithLoss}]}}")], ['11:47: unknown loss_weight schedule policy "lin"; did you mean "linear"?']),
    ("unknown field of a parameter", [("kernel_size: 3", "kernel_size: 3, param: [{lr_mul: 1}]")], ['10:77: param has no field "lr_mul"; did you mean "lr_mult"?']),
    ("unknown field of an input", [("{shape:", "{shpe:")], ['4:11: input has no field "shpe"; did you mean "shape"?']),
    ("unknown phase", [("kernel_size: 3", "kernel_size: 3, include: {phase: tain}")], ["10:85: phase: expected 'train' or 'test', got \"tain\"; did you mean \"train\"?"]),
    ("unknown field of run", [("max_epochs: 1", "max_epochs: 1\nrun: {keeps: 1}")], ['19:7: run has no field "keeps"; did you mean "keep"?']),
    ("two distances of evaluations", [("max_epochs: 1", "max_epochs: 1\nrun: {evaluate_every: {steps: 1, epochs: 1}}")], ["19:23: evaluate_every needs exactly one of epochs and steps"]),
    ("early stopping without patience", [("max_epochs: 1", "max_epochs: 1\nrun: {early_stopping: {monitor: loss}}")], ['19:23: early_stopping: the field "patience" is required']),
    ("unknown metric to monitor", [("max_epochs: 1", "max_epochs: 1\nrun: {early_stopping: {monitor: acuracy, patience: 1}}")], ['19:33: monitor: evaluation has no metric "acuracy"; did you mean "accuracy"?']),
    ("best checkpoint without population statistics", [(POOL, "{type: BatchNorm, statistics: population}"), ("max_epochs: 1", "max_epochs: 1\nrun: {early_stopping: {restore_best: true, patience: 1}}")], ["19:38: restore_best: population statistics are collected once, for the last checkpoint, so that the best one has none; set restore_best: false, or statistics: moving_average of BatchNorm"]),
    # wrong types
    ("text for an integer", [("output: 4", "output: four")], ['10:49: num_output: expected an integer, got "four"']),
    ("quoted number", [("output: 4", "output: '4'")], ['10:49: num_output: expected an integer, got "4"']),
    ("float for an integer", [("output: 4", "output: 4.0")], ["10:49: num_output: expected an integer, got 4.0"]),
    ("bool for an integer", [("output: 4", "output: true")], ["10:49: num_output: expected an integer, got true"]),
    ("list for an integer", [("output: 4", "output: [4]")], ["10:49: num_output: expected an integer, got a list of 1"]),
    ("null for an integer", [("output: 4", "output: null")], ["10:49: num_output: expected an integer, got nothing"]),
    ("mapping for a list", [("size: 3", "size: {h: 3}")], ["10:65: kernel_size: expected an integer, got a mapping"]),
    ("text for where data stay", [("source: digits", "source: digits\n  resident: gpu")], ['8:13: resident: expected true or false, got "gpu"']),
    ("integer for a bool", [("size: 3", "size: 3, bias_term: 1")], ["10:79: bias_term: expected true or false, got 1"]),
    ("`no` for a bool", [("size: 3", "size: 3, bias_term: no")], ['10:79: bias_term: expected true or false, got "no"']),
    ("text for a float", [("lr: 0.01", "lr: '0.01'")], ['17:12: base_lr: expected a number, got "0.01"']),
    ("number for a list", [("[1, 8, 8]", "8")], ["4:18: shape: expected a list, got 8"]),
    ("text in a list", [("[1, 8, 8]", "[1, a, 8]")], ['4:22: shape: expected an integer, got "a"']),
    ("list for a mapping", [("{shape: [1, 8, 8]}", "[1]")], ["4:10: image: expected a mapping, got a list of 1"]),
    ("text for a mapping", [("data:\n  source: digits\n  batch_size: 20", "data: digits")], ['6:7: data: expected a mapping, got "digits"']),
    ("number for a text", [("name: small", "name: 5")], ["2:7: name: expected a text, got 5"]),
    ("text for a mean", [("source: digits", "source: digits\n  mean: x")], ['8:9: mean: expected a number, a list of one a channel, or computed, got "x"']),
    ("bottom of a number", [(POOL, "{type: ReLU, bottom: 5}")], ["11:26: bottom: expected a text, got 5"]),
    # values out of range
    ("no output", [("output: 4", "output: 0")], ["10:49: num_output: must be greater than 0, got 0"]),
    ("output beyond all memory", [("output: 4", "output: 1000000000000")], ["10:49: conv: with its weight 1000000000000x1x3x3 the network has 9,000,000,000,000 parameters, and one ONNX file holds 536,608,768; use fewer outputs, or pool before it"]),
    ("negative kernel", [("size: 3", "size: -3")], ["10:65: conv: kernel_size: must be at least 1, got -3"]),
    ("kernel larger than the input", [("size: 3", "size: 9")], [f"10:65: conv: kernel_size 9 is larger than the input 1x8x8 with pad 0; {FIT}"]),
    ("kernel beyond all memory", [("size: 3", "size: 1000000000")], [f"10:65: conv: kernel_size 1000000000 is larger than the input 1x8x8 with pad 0; {FIT}"]),
    ("padding beyond all memory", [("size: 3", "size: 3, pad: 1000000000")], [f"10:5: conv: its top, 4x2000000006x2000000006 a sample, has 320,000,001,920,000,002,880 values, {HOLDS}; make it smaller, or lower data.batch_size"]),
    ("padding beyond all numbers", [("size: 3", "size: 3, pad: 4611686018427387904")], ["10:73: conv: pad: must be at most 2147483647, got 4611686018427387904"]),
    ("average over padding beyond all memory", [(POOL, "{type: Pooling, pool: average, kernel_size: 1000000001, pad: 1000000000, stride: 1000000000}")], ["11:66: pooling1: pad 1000000000 makes the padded input larger than 2,147,483,647 numbers"]),
    ("kernel for the wrong number of axes", [("size: 3", "size: [3, 3, 3]")], ["10:65: conv: kernel_size: needs 1 or 2 numbers for 2 spatial axes, got 3"]),
    ("empty kernel", [("size: 3", "size: []")], ["10:65: kernel_size: needs at least 1 entry, got 0"]),
    ("stride 0", [("size: 3", "size: 3, stride: 0")], ["10:76: conv: stride: must be at least 1, got 0"]),
    ("negative pad", [("size: 3", "size: 3, pad: -1")], ["10:73: conv: pad: must be at least 0, got -1"]),
    ("reach of a dilated kernel", [("size: 3", "size: 3, dilation: 5")], [f"10:65: conv: kernel_size 3 with dilation 5 (reach 11) is larger than the input 1x8x8 with pad 0; {FIT}"]),
    ("group that does not divide", [("size: 3", "size: 3, group: 3")], ["10:75: conv: group 3 does not divide the number of input channels, 1; use a divisor of both"]),
    ("pooling window larger than the input", [("kernel_size: 2, stride: 2", "kernel_size: 7")], [f"11:57: pool: kernel_size 7 is larger than the input 4x6x6 with pad 0; {FIT}"]),
    ("pooling window outside", [("kernel_size: 2, stride: 2", "kernel_size: 2, stride: 7")], ["11:68: pool: stride 7 with kernel_size 2 leaves the last window outside the input 4x6x6; use round_mode: floor"]),
    ("pooling window in the padding", [("kernel_size: 2, stride: 2", "kernel_size: 2, pad: 2")], ["11:65: pool: pad 2 must be smaller than kernel_size 2: a window would see padding only"]),
    ("pooling without window", [("kernel_size: 2, stride: 2", "stride: 2")], ["11:5: pool: Pooling needs kernel_size, or global_pooling: true"]),
    ("pooling of the plane with a window", [("kernel_size: 2, stride: 2", "global_pooling: true, stride: 2")], ["11:74: pool: global_pooling takes the whole plane; remove stride"]),
    ("unknown pool", [("max,", "mean,")], ["11:39: pool: expected 'max' or 'average', got \"mean\""]),
    ("dropout of everything", [(POOL, "{type: Dropout, dropout_ratio: 1}")], ["11:36: dropout_ratio: must be less than 1, got 1"]),
    ("dropout of NaN", [(POOL, "{type: Dropout, dropout_ratio: .nan}")], ["11:36: dropout_ratio: expected a finite number, got nan"]),
    ("eps that float32 makes zero", [(POOL, "{type: BatchNorm, eps: 1e-60}")], ["11:28: eps: 1e-60 is smaller than 1e-30 in size, beyond what a 32-bit float computes with"]),
    ("std that float32 makes infinite", [("size: 3", "size: 3, weight_filler: {type: gaussian, std: 1e300}")], ["10:105: std: 1e+300 is larger than 1e+30 in size, beyond what a 32-bit float computes with"]),
    ("axis of the batch", [(POOL, "{type: Softmax, axis: 0}")], ["11:27: softmax1: axis 0 is not an axis of a sample 4x6x6 (axis 0 is the batch)"]),
    ("more param entries than parameters", [("size: 3", "size: 3, param: [{}, {}, {}]")], ["10:75: conv: param: 3 entries, but conv has 2 parameters"]),
    ("negative loss weight", [(LOSS, LOSS[:-1] + ", loss_weight: -1}")], ["13:54: loss_weight: must be at least 0, got -1"]),
    ("top_k beyond the classes", [("Accuracy,", "Accuracy, top_k: 11,")], ["14:45: accuracy: top_k 11 is more than the 10 classes"]),
    ("batch of nothing", [("batch_size: 20", "batch_size: 0")], ["8:15: batch_size: must be greater than 0, got 0"]),
    ("batch beyond all memory", [("batch_size: 20", "batch_size: 1000000000000")], ["8:15: batch_size 1000000000000 gives an input more than the 2,147,483,647 values that a tensor can hold; lower it"]),
    ("input of size 0", [("[1, 8, 8]", "[1, 0, 8]")], ["4:22: shape: must be greater than 0, got 0"]),
    ("input without axes", [("[1, 8, 8]", "[]")], ["4:18: shape: needs at least 1 entry, got 0"]),
    ("input beyond all memory", [("[1, 8, 8]", "[100000, 100000, 100000]")], [f"4:18: image: one sample has 1,000,000,000,000,000 values, {HOLDS}; give it a smaller shape"]),
    ("input of both kinds", [("{shape: [1, 8, 8]}", "{shape: [1, 8, 8], classes: 10}")], ["10:5: conv: no layer above it and no input of numbers, with a shape and no classes; give bottom"]),
    ("one class", [("classes: 10", "classes: 1")], ["5:20: classes: must be greater than 1, got 1"]),
    ("fewer scores than classes", [("classes: 10", "classes: 11")], ['13:5: loss: "ip" gives 10 scores for 11 classes; set num_output: 11, or correct the classes of "label"']),
    ("no inputs", [("inputs:\n  image: {shape: [1, 8, 8]}\n" + LABEL, "inputs: {}\n")], ["3:9: inputs: needs at least 1 entry, got 0"]),
    ("rate NaN", [("lr: 0.01", "lr: .nan")], ["17:12: base_lr: expected a finite number, got nan"]),
    ("rate infinite", [("lr: 0.01", "lr: .inf")], ["17:12: base_lr: expected a finite number, got inf"]),
    ("rate negative", [("lr: 0.01", "lr: -1")], ["17:12: base_lr: must be greater than 0, got -1"]),
    ("rate beyond float32", [("lr: 0.01", "lr: 1e300")], ["17:12: base_lr: 1e+300 is larger than 1e+30 in size, beyond what a 32-bit float computes with"]),
    ("rate beyond float64", [("lr: 0.01", "lr: 1e400")], ["17:12: the number 1e400 is too large for a float; write .inf for infinity"]),
    ("momentum 1", [("type: SGD", "type: SGD\n  momentum: 1")], ["17:13: momentum: must be less than 1, got 1"]),
    ("seed too large", [("lr: 0.01", "lr: 0.01\n  random_seed: 4294967296")], ["18:16: random_seed: must be less than 4294967296, got 4294967296"]),
    ("integer beyond 64 bits", [("lr: 0.01", "lr: 0.01\n  random_seed: 99999999999999999999")], ["18:16: the integer 99999999999999999999 does not fit in 64 bits; write a float such as 1e30, or quote it as text"]),
    ("one mean too many", [("source: digits", "source: digits\n  mean: [1, 2]")], ["8:9: mean has 2 values, but image has 1 channels; give one number, or one a channel"]),
    ("mean infinite", [("source: digits", "source: digits\n  mean: [.inf]")], ["8:10: mean: expected a finite number, got inf"]),
    ("resize of one side", [("source: digits", "source: digits\n  resize: [8]")], ["8:11: resize: needs at least 2 entries, got 1"]),
    ("Adam with eps in two places", [("type: SGD", "type: Adam\n  eps_hat: true\n  eps_inside_sqrt: true")], ["16:3: eps_hat adds eps outside of the root, eps_inside_sqrt under it; remove one of them"]),
    ("Caffe's Adam without correction", [("type: SGD", "type: Adam\n  eps_hat: true\n  bias_correction: false")], ["16:3: eps_hat is about the bias correction, which is off; remove one of them"]),
    ("both lengths", [("epochs: 1", "epochs: 1\n  max_iter: 5")], ["16:3: solver needs exactly one of max_epochs and max_iter"]),
    ("no length", [("  max_epochs: 1\n", "")], ["16:3: solver needs exactly one of max_epochs and max_iter"]),
    ("no epochs", [("epochs: 1", "epochs: 0")], ["18:15: max_epochs: must be greater than 0, got 0"]),
    ("netc 2", [("netc: 1", "netc: 2")], ["1:7: netc: this netc reads version 1 of the language, not 2; write netc: 1"]),
    ("netc true", [("netc: 1", "netc: true")], ["1:7: netc: this netc reads version 1 of the language, not true; write netc: 1"]),
    # names and wiring
    ("duplicate layer", [("name: pool", "name: conv")], ['11:12: the name "conv" is taken already (line 10); names must be unique']),
    ("layer named as an input", [("name: pool", "name: image")], ['11:12: the name "image" is taken already (line 4); names must be unique']),
    ("input named as a layer, whose readers are not wrong besides", [(LABEL, "  conv: {classes: 10}\n"), (ACCURACY, "")], ['10:12: the name "conv" is taken already (line 5); names must be unique']),
    ("duplicate key", [("batch_size: 20", "source: mnist")], ['8:3: duplicate key "source"; it is first given at line 7, column 3']),
    ("reserved by the loss scale", [("name: pool", "name: loss_scale")], ['11:12: "loss_scale" is a name that every step uses; rename this layer']),
    ("unknown precision", [("base_lr: 0.01", "base_lr: 0.01\n  precision: float16")], ['18:14: precision: expected \'float32\' or \'mixed\', got "float16"; did you mean "float32"?']),
    ("reserved layer", [("name: pool", "name: step")], ['11:12: "step" is a name that every step uses; rename this layer']),
    ("reserved input", [(LABEL, "  seed: {classes: 10}\n"), (ACCURACY, "")], ['5:3: "seed" is a name that every step uses; rename this input']),
    ("layer named as a node", [("name: pool", "name: conv/forward/Conv")], ['11:12: "conv/forward/Conv" could be the name of a node of the graph; rename this layer']),
    ("name with a space", [("name: pool", "name: a b")], ['11:12: name: "a b" is not a valid name (letters, digits and _ - / only)']),
    ("name with a dot", [("name: pool", "name: a.b")], ['11:12: name: "a.b" is not a valid name (letters, digits and _ - / only)']),
    ("name that is a path", [("name: small", "name: ../x")], ['2:7: name: "../x" is not a valid name (letters, digits and _ - / only)']),
    ("name of 300 letters", [("name: pool", f"name: {'a' * 300}")], ["11:12: name: must have at most 200 characters, got 300"]),
    ("empty name", [("name: small", "name: ''")], ["2:7: name: must not be empty"]),
    ("input with a bad name", [(LABEL, "  a b: {classes: 10}\n"), (ACCURACY, "")], ['5:3: "a b" is not a valid name (letters, digits and _ - / only)']),
    ("unknown bottom", [(POOL, "{type: ReLU, bottom: cnv}")], ['11:26: relu1: unknown bottom "cnv"; did you mean "conv"?']),
    ("bottom below", [(POOL, "{type: ReLU, bottom: ip}")], ['11:26: relu1: "ip" stands below this layer; layers go from top to bottom']),
    ("bottom itself", [(POOL, "{name: r, type: ReLU, bottom: r}")], ['11:35: r: "r" is the layer itself']),
    ("bottom inside a side", [(POOL, "{type: ReLU, side: {layers: [{name: a, type: InnerProduct, num_output: 10}, {type: SoftmaxWithLoss}]}}"), ("num_output: 10}\n  - {name: loss", "num_output: 10, bottom: a}\n  - {name: loss")], ['12:60: ip: "a" is inside the side of relu1, which inference does not have']),
    ("bottom a loss", [("[ip, label]", "[loss, label]")], ['14:46: accuracy: "loss" is a SoftmaxWithLoss, which has no top; name the layer that it reads']),
    ("bottom of another phase", [(POOL, "{name: a, type: ReLU, include: {phase: test}}"), ("num_output: 10}\n", "num_output: 10, bottom: a}\n")], ['12:60: ip: "a" is not part of the train phase; remove its include']),
    ("too many bottoms", [(POOL, "{type: ReLU, bottom: [conv, image]}")], ["11:26: relu1: ReLU takes one bottom, got 2"]),
    ("too few bottoms", [(POOL, "{type: Eltwise}")], ["11:5: eltwise1: Eltwise takes at least 2 bottoms, got 1"]),
    ("loss of one bottom", [(LOSS, LOSS[:-1] + ", bottom: [ip]}")], ["13:49: loss: SoftmaxWithLoss takes 2 bottoms, such as [ip2, label], got 1"]),
    ("Eltwise of different shapes", [(POOL, "{type: Eltwise, bottom: [conv, image]}")], ["11:29: eltwise1: bottoms have different shapes: 4x6x6, 1x8x8; project one with a 1x1 Convolution or change its stride"]),
    ("Concat of different planes", [(POOL, "{type: Concat, bottom: [conv, image]}")], ["11:28: concat1: bottoms differ in more than axis 1: 4x6x6, 1x8x8"]),
    ("EuclideanLoss of different sizes", [(LOSS, "{type: EuclideanLoss, bottom: [ip, image]}")], ["13:35: euclideanloss1: bottoms have different sizes: 10 and 1x8x8; give both the same number of values"]),
    ("no labels", [(LABEL, ""), (ACCURACY, "")], ["12:5: loss: SoftmaxWithLoss needs labels; declare an input such as `label: {classes: 10}`"]),
    ("Accuracy without labels", [(LABEL, ""), (LOSS, "{type: EuclideanLoss, bottom: [ip, ip]}"), (", bottom: [ip, label]", "")], ["13:5: accuracy: Accuracy needs labels; declare an input such as `label: {classes: 10}`"]),
    ("no image", [("{shape: [1, 8, 8]}", "{classes: 10}")], ["10:5: conv: no layer above it and no input of numbers, with a shape and no classes; give bottom"]),
    ("labels as image", [(POOL, "{type: ReLU, bottom: label}")], ['11:26: relu1: "label" holds class labels, which ReLU does not compute with']),
    ("labels as scores", [("[ip, label]", "[label, ip]")], ['14:46: accuracy: "label" holds class labels, which Accuracy takes after the scores: [scores, labels]']),
    ("image as labels", [("[ip, label]", "[ip, image]")], ['14:46: accuracy: "image" holds 1x8x8 values a sample, but Accuracy takes class labels last; give "label"']),
    ("scores of a plane", [(LOSS, LOSS[:-1] + ", bottom: [conv, label]}")], ["13:49: loss: needs one score a class, got 4x6x6 a sample; put an InnerProduct before it, or give the labels their shape, [6, 6]"]),
    ("vector into a convolution", [("[1, 8, 8]", "[8]")], ["10:5: conv: Convolution needs channels and one to three spatial axes, got 8 a sample"]),
    ("no loss", [(f"  - {LOSS}\n", "")], ["9:1: the spec has no loss, so there is nothing to train; end the layers with one, such as {name: loss, type: SoftmaxWithLoss}"]),
    ("no loss in a phase", [(LOSS, LOSS[:-1] + ", include: {phase: train}}")], ["9:1: the spec has no loss in the test phase; remove the include of loss"]),
    ("side without a loss", [(POOL, "{type: ReLU, side: {layers: [{type: InnerProduct, num_output: 10}]}}")], ["11:18: the side of relu1 has no loss; end its layers with one, such as {type: SoftmaxWithLoss}"]),
    ("side of no layers", [(POOL, "{type: ReLU, side: {layers: []}}")], ["11:33: layers: needs at least 1 entry, got 0"]),
    ("side of a loss", [(LOSS, LOSS[:-1] + ", side: {layers: [{type: ReLU}]}}")], ["13:47: loss: a SoftmaxWithLoss has no top that a side could branch off"]),
    # several at once, in the order of the text
    ("several mistakes", [("classes: 10", "classes: 1"), ("source: digits", "source: digit"), ("num_output: 4", "num_output: four"), ("pool: max", "pool: mean"), ("[ip, label]", "[pi, label]"), ("base_lr: 0.01", "base_lr: -1")], ["5:20: classes: must be greater than 1, got 1", '7:11: unknown source "digit"; did you mean "digits"?', '10:49: num_output: expected an integer, got "four"', "11:39: pool: expected 'max' or 'average', got \"mean\"", '14:46: accuracy: unknown bottom "pi"; known: conv, image, ip, label, pool', "17:12: base_lr: must be greater than 0, got -1"]),
    ("mistakes behind another version and a misspelt section", [("netc: 1", "netc: 2"), ("name: small", "name: small\nfoo: 1"), ("output: 4", "output: x")], ["1:7: netc: this netc reads version 1 of the language, not 2; write netc: 1", '3:1: the spec has no field "foo"; known: data, freeze, fuse, init_from, inputs, layers, lr_mult, name, netc, phases, reinit, run, solver', '11:49: num_output: expected an integer, got "x"']),
    # syntax
    ("tab", [("  source: digits", "\tsource: digits")], ["7:1: a tab stands where YAML wants spaces; indent with spaces"]),
    ("unclosed bracket", [("[1, 8, 8]}", "[1, 8, 8}")], ['4:26: expected "," or "]" here: the "[" at line 4, column 18 is still open']),
    ("too deep", [("name: small", f"name: {'[' * 100}{']' * 100}")], ["2:70: nested deeper than 64 levels; make the spec flatter"]),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "messages"), [row[1:] for row in BAD_SPECS], ids=[row[0] for row in BAD_SPECS])
def test_bad_spec(netc: Netc, edits: list[tuple[str, str]], messages: list[str]) -> None:
    spec = edited(*edits)
    Path("spec.yaml").write_text(spec)
    for command in (["check", "spec.yaml"], ["compile", "spec.yaml", "-o", "out"]):
        result = netc(*command)
        assert result.errors == [f"error: spec.yaml:{message}" for message in messages]
        assert (result.code, result.out) == (2, "")
        assert files() == {"spec.yaml"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            "mnist",
            '7:3: the source "mnist" needs `path`: the folder with the four IDX files; or fetch them with: netc data fetch mnist',
        ),
        ("mnist\n  path: /nonexistent", "8:9: /nonexistent does not exist"),
    ],
)
def test_data_may_be_elsewhere_until_it_is_read(netc: Netc, data: str, sentence: str) -> None:
    Path("spec.yaml").write_text(edited(("source: digits", f"source: {data}")))
    result = netc("check", "spec.yaml")
    assert (result.code, result.errors) == (0, [f"warning: spec.yaml:{sentence}"])
    assert netc("compile", "spec.yaml", "-o", "out").errors == []
    result = netc("train", "spec.yaml", "--run", "run")
    assert (result.code, result.errors) == (2, [f"error: spec.yaml:{sentence}"])
    assert not Path("run").exists()


def alias_bomb() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{c}: &{c} [{', '.join(['*' + chr(ord(c) - 1)] * 9)}]" for c in "bcdefghi"]
    return "\n".join(lines)


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", ':1:1: the spec is empty; start it with "netc: 1"'),
    ("a comment", b"# later\n", ':1:1: the spec is empty; start it with "netc: 1"'),
    ("a list", b"- 1\n", ':1:1: a spec is a mapping such as "netc: 1", not a list'),
    ("binary", b"\x7fELF\x00\x01\xff" * 99, ": the byte at offset 4 is zero, so this is no text; name a spec file, saved as UTF-8"),
    ("Latin-1", "name: Zoë".encode("latin-1"), ": the byte at offset 8 is not valid UTF-8; save the file as UTF-8"),
    ("10 MB", SPEC.encode() + b"#" * 10_000_000, ": the spec is larger than 1 MiB; a repeated structure can be written as a block"),
    ("alias bomb", alias_bomb().encode(), ":6:12: the spec has more than 200000 keys and values, aliases expanded; make it smaller"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), [row[1:] for row in BAD_FILES], ids=[row[0] for row in BAD_FILES])
def test_bad_file(netc: Netc, content: bytes, message: str) -> None:
    Path("spec.yaml").write_bytes(content)
    result = netc("compile", "spec.yaml", "-o", "out")
    assert result.errors == [f"error: spec.yaml{message}"]
    assert result.code == 2
    assert files() == {"spec.yaml"}


def test_a_thousand_mistakes_are_cut(netc: Netc) -> None:
    Path("spec.yaml").write_text(SPEC + "".join(f"key{n}: 1\n" for n in range(1000)))
    result = netc("check", "spec.yaml")
    assert result.code == 2
    assert len(result.errors) == 101
    assert result.errors[-1] == "error: 900 more mistakes are not shown; correct these first"


def test_wiring_takes_no_exponential_time(netc: Netc) -> None:
    # Each top has two readers, so that there are a trillion paths to the loss.
    sums = [f"  - {{name: e{n}, type: Eltwise, bottom: [e{n - 1}, e{n - 2}]}}\n" for n in range(2, 60)]
    tops = "".join([f"{POOL}\n", "  - {name: e0, type: TanH}\n", "  - {name: e1, type: TanH}\n", *sums])
    Path("spec.yaml").write_text(edited((f"{POOL}\n", tops)))
    assert netc("check", "spec.yaml").code == 0
