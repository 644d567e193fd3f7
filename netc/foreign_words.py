"""Words of Caffe, PyTorch and Keras that the language spells otherwise or does not need: what to write instead.

For people who come from there; each entry ends the sentence `X has no field "WORD"; ...` or `unknown layer type ...`.
"""

_GEOMETRY = {
    f"{field}_{axis}": f"write {words}: [h, w]"
    for field, words in (("kernel", "kernel_size"), ("stride", "stride"), ("pad", "pad"))
    for axis in "hw"
}
_MULTIPLIERS = "write param: [{lr_mult: 1}, {lr_mult: 2, decay_mult: 0}], one entry a parameter"
_POLICY = "it belongs to the policy: lr_policy: {type: step, gamma: 0.1, stepsize: 1000}"
_EVALUATION = "the whole test split is evaluated after every epoch"
_CHECKPOINTS = "a checkpoint is written after every epoch, into the run folder"
_DEVICE = "choose with netc train --device"

INSTEAD: dict[str, str] = {
    **_GEOMETRY,
    **dict.fromkeys(("lr_mult", "decay_mult", "blobs_lr"), _MULTIPLIERS),
    **dict.fromkeys(("gamma", "power", "stepsize"), _POLICY),
    "stepvalue": "it belongs to the policy: lr_policy: {type: multistep, gamma: 0.1, stepvalue: [1000, 2000]}",
    "clip_gradients": "write clip_norm",
    "rms_decay": "write rho",
    **dict.fromkeys(("test_iter", "test_interval", "test_initialization"), _EVALUATION),
    **dict.fromkeys(("snapshot", "snapshot_prefix", "snapshot_format"), _CHECKPOINTS),
    **dict.fromkeys(("solver_mode", "device_id"), _DEVICE),
    **dict.fromkeys(("display", "average_loss", "debug_info"), "losses are shown after every epoch"),
    **dict.fromkeys(("propagate_down", "force_backward"), "gradients are computed for what learns, and only there"),
    **dict.fromkeys(("lr", "learning_rate"), "write base_lr"),
    **dict.fromkeys(("p", "drop_rate"), "write dropout_ratio"),
    **dict.fromkeys(("out_channels", "out_features", "filters", "units", "channels"), "write num_output"),
    **dict.fromkeys(("in_channels", "in_features"), "it follows from what the layer reads; remove it"),
    **dict.fromkeys(("epochs", "num_epochs"), "write max_epochs"),
    "bias": "write bias_term",
    "delta": "write eps",
    "groups": "write group",
    "padding": "write pad",
    "filler": "write weight_filler, or bias_filler for a Bias",
    "momentum2": "write beta2",
    "phase": "write include: {phase: train}",
    "regularization_type": "write regularization: L1, or L2",
    "top": "the top of a layer is called like the layer",
    "transform_param": "write data.scale and data.mean",
}


# Types of layers, in lower case.
TYPES: dict[str, str] = {
    **dict.fromkeys(("conv", "conv1d", "conv2d", "conv3d"), "write Convolution"),
    **dict.fromkeys(("convtranspose2d", "conv2dtranspose", "conv_transpose"), "write Deconvolution"),
    **dict.fromkeys(("linear", "dense", "fc", "fullyconnected", "fully_connected", "gemm"), "write InnerProduct"),
    **dict.fromkeys(("maxpool", "maxpool1d", "maxpool2d", "maxpooling2d"), "write Pooling with pool: max"),
    **dict.fromkeys(("avgpool", "avgpool2d", "averagepooling2d"), "write Pooling with pool: average"),
    **dict.fromkeys(
        ("adaptiveavgpool2d", "globalaveragepooling2d", "globalavgpool"),
        "write Pooling with pool: average and global_pooling: true",
    ),
    **dict.fromkeys(("batchnorm1d", "batchnorm2d", "batchnormalization"), "write BatchNorm"),
    **dict.fromkeys(("add", "sum", "residual"), "write Eltwise with bottom: [a, b]"),
    **dict.fromkeys(("mul", "multiply"), "write Eltwise with operation: prod"),
    **dict.fromkeys(("cat", "concatenate"), "write Concat"),
    **dict.fromkeys(("crossentropyloss", "crossentropy", "softmaxloss", "softmax_loss"), "write SoftmaxWithLoss"),
    **dict.fromkeys(("bceloss", "bcewithlogitsloss", "binarycrossentropy"), "write SigmoidCrossEntropyLoss"),
    **dict.fromkeys(("mseloss", "mse", "l2loss"), "write EuclideanLoss"),
    "leakyrelu": "write ReLU with negative_slope: 0.01",
    "silu": "write Swish",
}


def type_instead(word: str) -> str | None:
    """Return what to write instead of another framework's type of layer, if it is one."""
    return TYPES.get(word.lower())


def instead(word: str) -> str | None:
    """Return what to write instead of a field of another framework's, if it is one."""
    if word.endswith("_param") and word != "transform_param":
        return "write its fields directly into the layer"
    return INSTEAD.get(word)
