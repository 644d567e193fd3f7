"""Small specs that together use most of the language: every layer type, filler and schedule, blocks, sides, a head."""

from collections.abc import Mapping

END = """\
data: {source: digits, batch_size: 2}
solver: {type: SGD, base_lr: 0.01, max_epochs: 2}
"""
BASES: Mapping[str, str] = {
    "blocks": """\
netc: 1
name: blocks
inputs:
  image: {shape: [2, 8, 8]}
  label: {classes: 3}
data: {source: digits, batch_size: 2, mean: [1.0, 2.0], scale: 0.5}
blocks:
  conv:
    parameters: {channels: null, kernel: 3, rate: 1}
    layers:
      - {name: conv, type: Convolution, num_output: $channels, kernel_size: $kernel, pad: "${kernel // 2}",
         weight_filler: {type: msra, variance_norm: average}, param: [{lr_mult: $rate}, {lr_mult: "${rate * 2}"}]}
      - {type: ReLU}
  residual:
    parameters: {channels: null, inner: 2}
    layers:
      - {name: reduce, block: conv, channels: "${channels // inner}", kernel: 1}
      - {name: expand, block: conv, channels: $channels}
      - {name: sum, type: Eltwise, operation: sum, coeff: [1.0, 0.5], bottom: [expand, $in]}
  aside:
    parameters: {classes: 3, weight: 0.3}
    layers:
      - name: trunk
        type: Split
        side:
          loss_weight: $weight
          layers:
            - {name: score, type: InnerProduct, num_output: $classes}
            - {name: loss, type: SoftmaxWithLoss}
layers:
  - {name: stem, block: conv, channels: 4}
  - {name: res, block: residual, channels: 4, repeat: 2}
  - {name: companion, block: aside, weight: 0.1}
  - {name: pool, type: Pooling, pool: average, global_pooling: true}
  - {name: ip, type: InnerProduct, num_output: 3, bottom: pool}
  - {name: loss, type: SoftmaxWithLoss}
  - {name: accuracy, type: Accuracy, bottom: [ip, label]}
solver:
  type: SGD
  base_lr: 0.01
  momentum: 0.9
  weight_decay: 0.0005
  lr_policy: {type: inv, gamma: 0.0001, power: 0.75}
  max_epochs: 2
""",
    "sides": """\
netc: 1
name: sides
inputs:
  image: {shape: [1, 8, 8]}
  edge: {shape: [1, 8, 8]}
  label: {classes: 3}
data: {source: digits, batch_size: 2}
layers:
  - name: conv
    type: Convolution
    num_output: 2
    kernel_size: 3
    pad: 2
    side:
      loss_weight: {policy: linear, start: 0.5, end: 0.1, until: 0.5}
      threshold: 0.1
      layers:
        - {name: score1, type: Convolution, num_output: 1, kernel_size: 1}
        - {name: map1, type: Crop, offset: auto, bottom: [score1, image]}
        - {name: loss1, type: SigmoidCrossEntropyLoss, balanced: true, bottom: [map1, edge]}
  - name: pool
    type: Pooling
    kernel_size: 2
    stride: 2
    side:
      loss_weight: {policy: dsn, start: 1.0, epochs: 2, factor: 0.5}
      layers:
        - {name: score2, type: Convolution, num_output: 1, kernel_size: 1}
        - {name: up2, type: Deconvolution, num_output: 1, kernel_size: 4, stride: 2, pad: 1, bias_term: false,
           weight_filler: bilinear, param: [{lr_mult: 0}]}
        - {name: map2, type: Crop, axis: 2, offset: [0, 1], bottom: [up2, image]}
        - {name: loss2, type: DiceLoss, smooth: 1.0, bottom: [map2, edge]}
  - name: again
    type: Convolution
    num_output: 2
    kernel_size: 3
    side:
      loss_weight: {policy: step_off, start: 1.0, until: 0.5}
      layers:
        - name: hidden
          type: InnerProduct
          num_output: 4
          side:
            loss_weight: 0.25
            layers:
              - {name: score3, type: InnerProduct, num_output: 3}
              - {name: loss3, type: HingeLoss, norm: l2}
        - {name: loss4, type: EuclideanLoss, bottom: [hidden, hidden]}
  - {name: quiet, type: Silence}
fuse:
  loss_weight: {policy: constant, start: 1.0}
  layers:
    - {name: maps, type: Concat, axis: 1, bottom: [map1, map2]}
    - {name: fused, type: Convolution, num_output: 1, kernel_size: 1, weight_filler: {type: constant, value: 0.2}}
    - {name: fuse_loss, type: FocalLoss, gamma: 1.0, alpha: 0.5, bottom: [fused, edge]}
solver: {type: SGD, base_lr: 0.001, momentum: 0.9, max_iter: 10, lr_policy: {type: step, gamma: 0.1, stepsize: 5}}
""",
    "shared": """\
netc: 1
name: shared
inputs:
  left: {shape: [4]}
  right: {shape: [4]}
  similar: {shape: [1]}
  word: {classes: 5}
data: {source: digits, batch_size: 2}
layers:
  - {name: a, type: InnerProduct, num_output: 4, bottom: left, weight_filler: {type: uniform, min: -0.1, max: 0.1},
     param: [{name: w, lr_mult: 1.0, l2: 0.01}, {name: b, lr_mult: 2.0, decay_mult: 0.0}]}
  - {name: b1, type: InnerProduct, num_output: 4, bottom: right, param: [{name: w}, {name: b}]}
  - {name: near, type: ContrastiveLoss, margin: 1.0, legacy_version: false, bottom: [a, b1, similar]}
  - {name: e, type: Embed, num_output: 4, input_dim: 5, bottom: word, weight_filler: {type: gaussian, std: 0.1}}
  - {name: sum, type: Eltwise, operation: max, bottom: [a, e]}
  - {name: probabilities, type: Softmax, axis: 1, bottom: sum}
  - {name: kl, type: KLDivergenceLoss, loss_weight: 0.5, bottom: [b1, probabilities]}
  - {name: l1, type: L1Loss, normalization: full, bottom: [b1, left]}
  - {name: huber, type: HuberLoss, delta: 0.5, bottom: [b1, right]}
  - {name: sparse, type: AbsVal, loss_weight: 0.01, bottom: a}
  - {name: mae, type: MeanAbsoluteError, bottom: [a, left]}
  - {name: mix, type: WeightedSum, bottom: [a, b1], weight_filler: xavier}
  - {name: own, type: EuclideanLoss, bottom: [mix, left]}
solver: {type: Adam, base_lr: 0.01, beta1: 0.8, beta2: 0.99, eps: 0.001, max_iter: 9, random_seed: 7}
""",
    "dense": """\
netc: 1
name: dense
inputs:
  image: {shape: [3, 8, 8]}
  label: {classes: 5, shape: [8, 8]}
data: {source: digits, batch_size: 2}
layers:
  - {name: down, type: Convolution, num_output: 4, kernel_size: [3, 3], stride: [2, 2], pad: [1, 1], dilation: 1}
  - {name: up, type: Upsample, scale: 2, mode: bilinear}
  - {name: scores, type: Convolution, num_output: 5, kernel_size: 1, group: 1, bias_term: true}
  - {name: loss, type: SoftmaxWithLoss, label_smoothing: 0.1, class_weight: [1, 2, 1, 0.5, 1], ignore_label: 255,
     normalization: valid}
  - {name: gain, type: InfogainLoss, loss_weight: 0.1, bottom: [scores, label], ignore_label: 0, matrix:
     [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]}
  - {name: hinge, type: HingeLoss, norm: l1, loss_weight: 0, bottom: [scores, label]}
  - {name: p, type: Softmax, bottom: scores}
  - {name: nll, type: MultinomialLogisticLoss, bottom: [p, label]}
  - {name: accuracy, type: Accuracy, top_k: 2, ignore_label: 255, bottom: [scores, label]}
  - {name: iou, type: MeanIoU, ignore_label: 255, bottom: [scores, label]}
  - {name: confusion, type: ConfusionMatrix, bottom: [scores, label], include: {phase: test}}
  - {name: classes, type: ClassAccuracy, bottom: [scores, label]}
solver: {type: SGD, base_lr: 0.01, max_epochs: 2}
""",
    "elementwise": """\
netc: 1
name: elementwise
inputs:
  image: {shape: [4, 4, 4]}
  label: {classes: 2}
layers:
  - {name: c, type: Convolution, num_output: 4, kernel_size: 1, weight_filler: positive_unitball}
  - {name: relu, type: ReLU, negative_slope: 0.1}
  - {name: prelu, type: PReLU, channel_shared: false, weight_filler: {type: constant, value: 0.2}}
  - {name: elu, type: ELU, alpha: 0.5}
  - {name: selu, type: SELU}
  - {name: gelu, type: GELU, approximate: tanh}
  - {name: swish, type: Swish, beta: 1.5}
  - {name: hard, type: HardSwish}
  - {name: mish, type: Mish}
  - {name: bnll, type: BNLL}
  - {name: power, type: Power, power: 2, scale: 0.5, shift: 1}
  - {name: exp, type: Exp, base: 2, scale: 0.1}
  - {name: log, type: Log, base: 10, shift: 1}
  - {name: clip, type: Clip, min: -2, max: 2}
  - {name: threshold, type: Threshold, threshold: 0.5, bottom: c}
  - {name: product, type: Eltwise, operation: prod, bottom: [clip, threshold]}
  - {name: max, type: Maxout, num_pieces: 2}
  - {name: tanh, type: TanH}
  - {name: sigmoid, type: Sigmoid}
  - {name: logs, type: LogSoftmax, axis: -1}
  - {name: ip, type: InnerProduct, num_output: 2, axis: 1, transpose: true, weight_filler: {type: orthogonal, gain: 2}}
  - {type: SoftmaxWithLoss}
"""
    + END,
    "planes": """\
netc: 1
name: planes
inputs:
  image: {shape: [2, 6, 8]}
  label: {classes: 2}
layers:
  - {name: pad, type: Pad, pad: [1, 0], pad_end: 1, mode: constant, value: 0.5}
  - {name: c, type: Convolution, num_output: 4, kernel_size: 3, pad: 1, group: 2, weight_filler: identity}
  - {name: lrn, type: LRN, local_size: 3, alpha: 0.1, beta: 0.75, k: 1.5, norm_region: across_channels}
  - {name: pool, type: Pooling, pool: max, kernel_size: [3, 2], stride: 2, pad: 1, round_mode: floor}
  - {name: cut, type: Slice, top: [first, second], axis: 1, slice_point: 1}
  - {name: tile, type: Tile, axis: 1, tiles: 3, bottom: first}
  - {name: join, type: Concat, axis: 1, bottom: [tile, second]}
  - {name: permute, type: Permute, order: [0, 2, 3, 1]}
  - {name: reshape, type: Reshape, shape: [0, -1], axis: 1, num_axes: 2}
  - {name: flat, type: Flatten, axis: 1, end_axis: -1}
  - {name: pyramid, type: SPP, pyramid_height: 2, pool: average, bottom: join}
  - {name: sums, type: Reduction, operation: sumsq, axis: 2, coeff: 0.5, bottom: join}
  - {name: best, type: ArgMax, axis: 1, top_k: 2, out_max_val: true, bottom: flat}
  - {name: copy, type: Split, bottom: best}
  - {name: all, type: Concat, bottom: [pyramid, sums, copy]}
  - {name: ip, type: InnerProduct, num_output: 2}
  - {name: loss, type: SoftmaxWithLoss}
"""
    + END,
    "norms": """\
netc: 1
name: norms
inputs:
  image: {shape: [4, 4, 4]}
  label: {classes: 2}
layers:
  - {name: c, type: Convolution, num_output: 4, kernel_size: 1, bias_filler: {type: constant, value: 0.1}}
  - {name: bn, type: BatchNorm, eps: 0.001, moving_average_fraction: 0.8, statistics: population, affine: true}
  - {name: fixed, type: BatchNorm, use_global_stats: true, affine: false}
  - {name: ln, type: LayerNorm, axis: 1, eps: 0.001, affine: true}
  - {name: gn, type: GroupNorm, num_groups: 2}
  - {name: inorm, type: InstanceNorm, affine: false}
  - {name: mvn, type: MVN, normalize_variance: true, across_channels: false, eps: 0.001}
  - {name: scale, type: Scale, axis: 1, num_axes: 1, bias_term: true, weight_filler: {type: gaussian, mean: 1}}
  - {name: bias, type: Bias, axis: 1, num_axes: 2, bias_filler: {type: uniform, min: -1, max: 1}}
  - {name: gate, type: Pooling, global_pooling: true, pool: average}
  - {name: gated, type: Scale, bottom: [bias, gate]}
  - {name: noise, type: GaussianNoise, std: 0.1, include: {phase: train}}
  - {name: drop, type: Dropout, dropout_ratio: 0.3, scale_at: train, whole_channel: true}
  - {name: depth, type: StochasticDepth, drop_ratio: 0.2}
  - {name: ip, type: InnerProduct, num_output: 2}
  - {name: loss, type: SoftmaxWithLoss, normalization: batch_size}
"""
    + END.replace("type: SGD", "type: SGD, population_batches: 10, lr_policy: fixed"),
}
