"""Allocation: each device of a fleet gets the best sub-model whose estimated round meets the round duration."""

from latte_cli.allocator.changes import ClassChange, changes
from latte_cli.allocator.channels import Coverage, Frequencies, Kept, coverage, kept_channels
from latte_cli.allocator.check import PlanCheck, check_plan
from latte_cli.allocator.curve import CurvePoint, busiest, curve, point, shortest_point
from latte_cli.allocator.document import SCHEMA, outcome, plan_document, read_before, read_plan
from latte_cli.allocator.fine import SHARES, Search, allocate_fine
from latte_cli.allocator.fine_goal import fine_target
from latte_cli.allocator.goal import Goal, Least, PlanTarget, curve_towards
from latte_cli.allocator.learning import MeasuredSteps, StepPrice, correct_rounds
from latte_cli.allocator.many import Assignment, Devices, assign
from latte_cli.allocator.pacing import Deadline, paced_duration_s, paced_round, steps_within
from latte_cli.allocator.plan import Plan, PlannedDevice, Priced, allocate, largest, plan_device, plan_of, price_classes
from latte_cli.allocator.plan_file import CATALOGUE, MANY, PlanFile, Trainee, shared_out
from latte_cli.allocator.pricing import Price, Pricer, Round, class_estimator, estimator_of, pricer_of, round_of
from latte_cli.allocator.rounds_file import RoundsFile
from latte_cli.allocator.sub_models import SubModel, catalogue
from latte_cli.fleet import Method, Objective

__all__ = [
    "CATALOGUE",
    "MANY",
    "SCHEMA",
    "SHARES",
    "Assignment",
    "ClassChange",
    "PlanCheck",
    "Coverage",
    "Deadline",
    "Devices",
    "Frequencies",
    "Goal",
    "Kept",
    "Least",
    "MeasuredSteps",
    "Method",
    "Objective",
    "Plan",
    "PlanFile",
    "PlannedDevice",
    "CurvePoint",
    "Price",
    "Priced",
    "Pricer",
    "Round",
    "RoundsFile",
    "Search",
    "StepPrice",
    "SubModel",
    "PlanTarget",
    "Trainee",
    "allocate",
    "allocate_fine",
    "plan_document",
    "assign",
    "busiest",
    "catalogue",
    "changes",
    "check_plan",
    "class_estimator",
    "correct_rounds",
    "coverage",
    "curve",
    "curve_towards",
    "estimator_of",
    "fine_target",
    "kept_channels",
    "largest",
    "outcome",
    "paced_round",
    "paced_duration_s",
    "plan_of",
    "plan_device",
    "point",
    "price_classes",
    "pricer_of",
    "read_before",
    "read_plan",
    "round_of",
    "shared_out",
    "shortest_point",
    "steps_within",
]
