"""Protocols of the field, registered: each a reader of its documented layout and the figures made of it."""

from __future__ import annotations

from facezoo.evaluation.protocols import groups, templates, verification
from facezoo.evaluation.protocols.groups import GroupReport, group_errors
from facezoo.evaluation.protocols.protocol import (
    PROTOCOLS,
    Embed,
    Protocol,
    ProtocolResult,
    find_protocols,
    run_protocol,
    suite_table,
)
from facezoo.evaluation.protocols.templates import make_templates

__all__ = [
    "PROTOCOLS",
    "Embed",
    "GroupReport",
    "Protocol",
    "ProtocolResult",
    "find_protocols",
    "group_errors",
    "groups",
    "make_templates",
    "run_protocol",
    "suite_table",
    "templates",
    "verification",
]
