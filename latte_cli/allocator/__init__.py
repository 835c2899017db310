"""Allocation: each device of a fleet gets the best sub-model whose estimated round meets the round duration."""

from latte_cli.allocator.changes import Change, changes
from latte_cli.allocator.channels import Coverage, Frequencies, Kept, coverage, kept
from latte_cli.allocator.check import Check, check
from latte_cli.allocator.curve import Point, busiest, curve, point, shortest
from latte_cli.allocator.document import SCHEMA, as_json, outcome, read_plan
from latte_cli.allocator.fine import SHARES, Search, allocate_fine
from latte_cli.allocator.goal import Goal, Least, Target, curve_towards
from latte_cli.allocator.many import Assignment, Devices, assigned
from latte_cli.allocator.plan import Plan, PlannedDevice, Priced, allocate, largest, plan_of, planned, priced
from latte_cli.allocator.plan_file import CATALOGUE, MANY, PlanFile, Trainee, shared_out
from latte_cli.allocator.pricing import Price, Pricer, Round, estimator_of, pricer_of, round_of
from latte_cli.allocator.sub_models import SubModel, catalogue
from latte_cli.fleet import Method, Objective

__all__ = [
    "CATALOGUE",
    "MANY",
    "SCHEMA",
    "SHARES",
    "Assignment",
    "Change",
    "Check",
    "Coverage",
    "Devices",
    "Frequencies",
    "Goal",
    "Kept",
    "Least",
    "Method",
    "Objective",
    "Plan",
    "PlanFile",
    "PlannedDevice",
    "Point",
    "Price",
    "Priced",
    "Pricer",
    "Round",
    "Search",
    "SubModel",
    "Target",
    "Trainee",
    "allocate",
    "allocate_fine",
    "as_json",
    "assigned",
    "busiest",
    "catalogue",
    "changes",
    "check",
    "coverage",
    "curve",
    "curve_towards",
    "estimator_of",
    "kept",
    "largest",
    "outcome",
    "plan_of",
    "planned",
    "point",
    "priced",
    "pricer_of",
    "read_plan",
    "round_of",
    "shared_out",
    "shortest",
]
