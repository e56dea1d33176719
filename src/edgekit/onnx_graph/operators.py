"""Errors for graphs that a target refuses, naming the operator and the node."""

from __future__ import annotations

import re

from onnx import ModelProto

from edgekit.errors import ExportError, reason_of

# `Det-17`, `my.domain.Foo` (OpenVINO); `implementation for Det(11) node`, `(odd, Foo, "", -1)`, `my.domain:Foo(-1)` (ONNX Runtime).
_WORD = re.compile(r"[A-Za-z_][\w.]*")


def refused(target: str, model: ModelProto, error: BaseException, hint: str) -> ExportError:
    """The error to raise if a target's converter or runtime refuses a graph.

    Args:
        target: its name, for the message.
        model: the graph.
        error: the converter's error; operators of the graph that it names are looked up.
        hint: what the user can do.
    """
    reason = " ".join(str(error).split())  # whole: the names of the operators may come late
    words = {word.rpartition(".")[2] for word in _WORD.findall(_operators_part(reason))}
    nodes = [node for node in model.graph.node if node.op_type in words]
    if not nodes:
        return ExportError(f"{target} cannot read the model: {reason_of(error)}", hint)
    kinds = list(dict.fromkeys(node.op_type for node in nodes))
    listed = ", ".join(f"{kind} (node {next(n.name for n in nodes if n.op_type == kind) or '?'})" for kind in kinds[:3])
    return ExportError(f"{target} does not support the operator {listed}{', …' if len(kinds) > 3 else ''}", hint)


def _operators_part(reason: str) -> str:
    """The part of a message that names operators; empty if it has none."""
    for mark in (
        "No conversion rule found for operations:",
        "does not support the following ONNX operations:",
        "Could not find an implementation for",
        "In Node,",
        "Fatal error:",
    ):
        if mark in reason:
            return reason.partition(mark)[2][:300]
    return ""
