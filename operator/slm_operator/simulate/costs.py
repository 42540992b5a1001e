"""What a token of prompt, and one of context, costs a GPU: by the planner's roofline.

The same terms as in ``slm_worker.planning.steps`` (a prompt is arithmetic, a context is read from
memory at each step) and ``slm_worker.planning.power``, taken for one token.
"""

from __future__ import annotations

from slm_operator.simulate.hardware import LengthCosts
from slm_worker.planning.catalogue import Gpu
from slm_worker.planning.constants import fitted
from slm_worker.planning.steps import Model


def length_costs(model: Model, gpu: Gpu, dtype: str) -> LengthCosts:
    """Raises KeyError for a dtype that the GPU lacks."""
    rates, constants = gpu.rates(dtype), fitted()
    span_watts = gpu.max_watts - gpu.idle_watts
    flops = 2.0 * (model.matrix_parameters - model.head_parameters)
    prompt_seconds = flops / (constants.compute * rates.flops_per_second)
    at_peak_flops = flops / rates.flops_per_second
    at_peak_bandwidth = model.kv_bytes_per_token / rates.bytes_per_second
    context_seconds = at_peak_bandwidth / constants.kv_bandwidth
    return LengthCosts(
        prompt_seconds=prompt_seconds,
        prompt_joules=span_watts
        * (
            constants.compute_power * at_peak_flops
            + constants.kv_power * at_peak_bandwidth
            + constants.busy_power * prompt_seconds
        ),
        context_seconds=context_seconds,
        context_joules=span_watts
        * (constants.kv_power * at_peak_bandwidth + constants.busy_power * context_seconds),
    )
