"""FADAS: the buffered mean of asynchronous changes under AMSGrad with a delay-adaptive rate.

Wang et al., "FADAS: Towards Federated Adaptive Asynchronous Optimization", ICML 2024,
arXiv:2407.18365.

    d_t = (1/m) * sum_{i in S_t} (x_K - x_mu)_i,    x_{t+1} = AMSGrad(x_t, d_t, eta_t)
    eta_t = min(eta, 1 / tau_max,t) if tau_max,t > tau_c, else eta

tau_max,t is the largest delay in the buffer. Single returns are not damped. AMSGrad and its rate
stand in ``server_optimizers.amsgrad``; the denominator has the largest second moment so far.

Memory: none of its own beside the optimiser's.
"""

from torch import Tensor

from configs.algorithms import Fadas
from tasks.federated.algorithms.interface import Returns, ServerAlgorithm, ServerState
from tasks.federated.algorithms.server_optimizers import amsgrad


def fadas(config: Fadas) -> ServerAlgorithm:
    """Make FADAS.

    Args:
        config: Rate, and AMSGrad's numbers with the delay threshold tau_c.

    Returns:
        The algorithm.
    """
    server = amsgrad(config.server, config.server_lr)

    def init(model: Tensor) -> ServerState:
        return ServerState(model, memory=server.init(model))

    def aggregate(state: ServerState, returns: Returns) -> ServerState:
        return server.step(state, returns.change.mean(dim=0), returns)

    return ServerAlgorithm(init, aggregate)
