# SPDX-License-Identifier: MIT
"""Chaos for real processes: faults for a running farm, a verdict from outside, a report."""
