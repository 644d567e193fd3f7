"""Caffe's words that the language spells otherwise or does not need: what to write instead.

For people who come from Caffe; each entry ends the sentence `X has no field "WORD"; ...`.
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
    "delta": "write eps",
    "filler": "write weight_filler, or bias_filler for a Bias",
    "momentum2": "write beta2",
    "phase": "write include: {phase: train}",
    "regularization_type": "write regularization: L1, or L2",
    "top": "the top of a layer is called like the layer",
    "transform_param": "write data.scale and data.mean",
}


def instead(word: str) -> str | None:
    """Return what to write instead of a field of Caffe's, if it is one."""
    if word.endswith("_param") and word != "transform_param":
        return "write its fields directly into the layer"
    return INSTEAD.get(word)
