"""gdfast's fused steps as optimizers of Keras 3, on its torch backend: change ``keras.optimizers`` to ``gdfast.keras``.

Each is a subclass of Keras' class of the name, with its arguments, variables, saved files and schedules; all variables of a
model are one native call. ``global_clipnorm`` and ``clipvalue`` are part of that step; ``clipnorm``, weight decay, averages
and accumulation are Keras' own, before it. Variables are float32 or float64 on the CPU, of one type in a model. Raises
NotImplementedError for another backend.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

try:
    import keras
except ImportError as error:
    raise ImportError(
        'gdfast.keras needs Keras 3: pip install "gdfast[keras]"; without TensorFlow, set KERAS_BACKEND=torch '
        f"before it is imported ({error})"
    ) from error

from gdfast import _core, optimizers, runtime
from gdfast.backends.cpu import rule_of
from gdfast.clipping import ClipNorm, ClipValue
from gdfast.penalties import ElasticNet

if keras.backend.backend() != "torch":
    raise NotImplementedError(
        f"gdfast.keras works on Keras' torch backend, this is {keras.backend.backend()!r}; set KERAS_BACKEND=torch before "
        "keras is imported"
    )

from gdfast.torch import ONE_THREAD, Block

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "Nadam", "RMSprop"]


class _Fused:
    """The step of all variables at once; a subclass names its lists of variables and the rule."""

    lists: ClassVar[dict[str, str]]  # name of a slot of the rule -> of Keras' list of variables

    def _rule(self: Any) -> optimizers.Optimizer:
        raise NotImplementedError

    def _rate_and_scale(self, lr: float) -> tuple[float, float]:
        """Rate, and factor of the gradients before they are clipped."""
        return lr, 1.0

    def _clip_gradients(self: Any, grads: list[Any]) -> list[Any]:
        return super()._clip_gradients(grads) if self.clipnorm else grads  # type: ignore[misc]

    def _clipping(self: Any, scale: float) -> ClipNorm | ClipValue | None:
        if self.global_clipnorm:
            return ClipNorm(self.global_clipnorm * scale)
        return ClipValue(self.clipvalue * scale) if self.clipvalue else None

    def _block(self: Any, rule: optimizers.Optimizer) -> Block:
        """The slots, in one array of which Keras' variables become views when the first step is made."""
        if getattr(self, "_slots_in_one", None) is None:
            block = Block([v.value for v in self._trainable_variables], rule.n_slots)
            for slot, name in enumerate(rule.slot_names):
                for i, variable in enumerate(getattr(self, self.lists[name])):
                    view = block.view(slot, i)
                    view.copy_(variable.value)
                    variable.value.data = view
            self._slots_in_one = block
        return self._slots_in_one

    def _backend_update_step(self: Any, grads: list[Any], trainable_variables: list[Any], learning_rate: Any) -> None:
        rule = self._rule()
        block = self._block(rule)
        rows, copies = block.rows(
            [(self._get_variable_index(v), v.value, g) for v, g in zip(trainable_variables, grads, strict=True)]
        )
        t, n = int(self.iterations) + 1, block.slots.shape[1]
        lr, scale = self._rate_and_scale(float(learning_rate))
        native = rule_of(
            rule, rule.coefficients(np.array([float(t)])), ElasticNet(0.0), self._clipping(abs(scale)), None, n,
            block.slots.dtype,
        )  # fmt: skip
        with runtime.worker():
            threads = 1 if n < ONE_THREAD else runtime.threads()
            _core.update_tensors([(native, lr, scale, block.slots, rows)], threads)
        del copies  # alive until here


class SGD(_Fused, keras.optimizers.SGD):
    """``keras.optimizers.SGD``, whose velocity holds the rate: v = momentum v - lr g, w += v."""

    lists: ClassVar[dict[str, str]] = {"velocity": "momentums"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.SGD(momentum=self.momentum, nesterov=bool(self.nesterov and self.momentum))

    def _rate_and_scale(self, lr: float) -> tuple[float, float]:
        return -1.0, -lr


class Adagrad(_Fused, keras.optimizers.Adagrad):
    """``keras.optimizers.Adagrad``"""

    lists: ClassVar[dict[str, str]] = {"accumulator": "_accumulators"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.Adagrad(epsilon=self.epsilon, keras_epsilon=True)


class Adadelta(_Fused, keras.optimizers.Adadelta):
    """``keras.optimizers.Adadelta``"""

    lists: ClassVar[dict[str, str]] = {"v": "_accumulated_grads", "u": "_accumulated_delta_vars"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.Adadelta(rho=self.rho, epsilon=self.epsilon)


class RMSprop(_Fused, keras.optimizers.RMSprop):
    """``keras.optimizers.RMSprop`` without momentum, which would hold the rate."""

    lists: ClassVar[dict[str, str]] = {"v": "_velocities", "mean": "_average_gradients"}

    def _rule(self: Any) -> optimizers.Optimizer:
        if self.momentum:
            raise NotImplementedError("gdfast.keras.RMSprop has no momentum; use keras.optimizers.RMSprop, or Adam")
        return optimizers.RMSprop(rho=self.rho, epsilon=self.epsilon, centered=bool(self.centered), keras_epsilon=True)


class Adam(_Fused, keras.optimizers.Adam):
    """``keras.optimizers.Adam``"""

    lists: ClassVar[dict[str, str]] = {"m": "_momentums", "v": "_velocities", "v_max": "_velocity_hats"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.Adam(
            beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon, amsgrad=bool(self.amsgrad), keras_epsilon=True
        )


class AdamW(Adam, keras.optimizers.AdamW):
    """``keras.optimizers.AdamW``"""


class Nadam(_Fused, keras.optimizers.Nadam):
    """``keras.optimizers.Nadam``"""

    lists: ClassVar[dict[str, str]] = {"m": "_momentums", "v": "_velocities"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.Nadam(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon, momentum_decay=1.0)

    def _backend_update_step(self: Any, grads: list[Any], trainable_variables: list[Any], learning_rate: Any) -> None:
        t = int(self.iterations) + 1
        self._u_product.assign(self._u_product * (self.beta_1 * (1 - 0.5 * 0.96**t)))  # for Keras to go on from
        super()._backend_update_step(grads, trainable_variables, learning_rate)


class Adamax(_Fused, keras.optimizers.Adamax):
    """``keras.optimizers.Adamax``"""

    lists: ClassVar[dict[str, str]] = {"m": "_m", "u": "_u"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.Adamax(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon, keras_epsilon=True)


class Lion(_Fused, keras.optimizers.Lion):
    """``keras.optimizers.Lion``"""

    lists: ClassVar[dict[str, str]] = {"m": "_momentums"}

    def _rule(self: Any) -> optimizers.Optimizer:
        return optimizers.Lion(beta_1=self.beta_1, beta_2=self.beta_2)
