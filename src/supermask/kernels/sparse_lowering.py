"""From the steps of a sparse program to the arrays that the compiled kernel runs; ``csrc/sparse_simd.c`` says how it works.

Every value gets the arrangement in which its producer works (images a vector), and another one where a consumer needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from supermask.kernels.sparse_layout import Buffer, ConvPlan, Key, allocate, image_size, images_of
from supermask.kernels.sparse_numpy import adaptive_span, pool_counts
from supermask.kernels.sparse_steps import (
    KINDS,
    Activation,
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    Flatten,
    MaxPool,
    Multiply,
    ScaleShift,
    Shape,
    SparseConv,
    SparseLinear,
    Step,
)

Array = NDArray[Any]

FIELDS: Final = (
    *("kind", "images"),
    *("source", "source_part", "source_channel", "source_row"),
    *("other", "other_part", "other_channel", "other_row"),
    *("target", "target_part", "target_channel", "target_row"),
    *("channels", "height", "vectors", "above", "below", "left", "right", "mask"),
    *("activation", "constants", "scale", "bias"),
    *("source_vectors", "margin", "row_stride", "largest"),
    *("taps", "shifts", "order", "counts", "places", "weights", "pooled"),
    *("width", "windows", "factors", "source_images", "source_space", "target_space", "phases"),
    *("target_image", "target_step", "source_rows", "strips"),
)
OPERATION: Final = np.dtype([(name, np.int64) for name in FIELDS])
MOVE, CONV, LINEAR, POOL, MAP, ADD, MULTIPLY = range(7)
ARENA, INPUT, OUTPUT = range(3)
LARGEST_ROWS: Final = {1: 3, 2: 2, 3: 1, 4: 1}  # vectors of a row -> base-2 logarithm of the rows of a block
GROUPS: Final = 4  # vectors of images in a tile of a program that needs little memory
SMALL: Final = 1 << 17  # floats of working memory for one vector of images


@dataclass(frozen=True)
class Lowered:
    """A program for the compiled kernel.

    Attributes:
        operations: Records of type ``OPERATION``.
        ints: int32.
        floats: float32.
        arena: Floats of working memory of one thread.
        tile: Images that are worked on together.
    """

    operations: NDArray[Any]
    ints: NDArray[np.int32]
    floats: NDArray[np.float32]
    arena: int
    tile: int


def lower(steps: Sequence[Step], shapes: Sequence[Shape], lanes: int, *, single: bool = False) -> Lowered:
    """Lower a checked program.

    Args:
        steps: The steps.
        shapes: Shape of every value.
        lanes: Floats of a vector of the kernel.
        single: Whether it will run one image at a time.

    Raises:
        UnsupportedError: The kernel cannot run it.
    """
    return _Lowering(steps, shapes, lanes, single).result()


@dataclass
class _Node:
    """A step, and what follows it alone and is done along with it."""

    step: Step
    sources: list[int]
    result: int
    conv: ConvPlan | None = None
    pooled: bool = False
    activation: Activation | None = None


class _Lowering:
    def __init__(self, steps: Sequence[Step], shapes: Sequence[Shape], lanes: int, single: bool) -> None:
        self.steps, self.shapes, self.lanes, self.single = steps, shapes, lanes, single
        self.holder = {0: 0}  # value -> the one that holds its entries: flattening moves nothing
        self.nodes: list[_Node] = []
        self.buffers: dict[Key, Buffer] = {}
        self.primary: dict[int, Key] = {}  # value -> arrangement in which it is made
        self.made: set[Key] = set()
        self.operations: list[dict[str, Any]] = []
        self.ints: list[NDArray[np.int32]] = []
        self.floats: list[NDArray[np.float32]] = []
        self.int_count = self.float_count = self.scratch = 0

    def result(self) -> Lowered:
        self._join()
        for node in self.nodes:
            self._arrange(node)
        self.none = self._float([1.0, 1.0])
        for node in self.nodes:
            self._emit(node)
        self._move_out(self.holder[len(self.steps)])
        images = [operation["images"] for operation in self.operations]
        tile = 1 if self.single else self.lanes
        arena = allocate(self.buffers.values(), images, self.lanes, tile, self.scratch)
        if arena <= SMALL and not self.single:  # then several vectors of images share the reading of the weights
            tile *= GROUPS
            arena = allocate(self.buffers.values(), images, self.lanes, tile, self.scratch)
        records = np.zeros(len(self.operations), OPERATION)
        for record, operation in zip(records, self.operations, strict=True):
            for role in ("source", "other", "target"):
                buffer = operation.pop(role, None)
                if buffer is not None:
                    record[role] = buffer.start + operation.pop(f"{role}_extra", 0)
                    record[f"{role}_part"] = 0 if buffer.local else buffer.floats
            for name, value in operation.items():
                record[name] = value
        ints = np.concatenate([*self.ints, np.zeros(1, np.int32)])
        return Lowered(records, ints, np.concatenate(self.floats), arena, tile)

    # ---- which steps are one operation ----

    def _join(self) -> None:
        uses = [0] * (len(self.steps) + 1)
        for number, step in enumerate(self.steps):
            for source in step.sources:
                uses[source if source >= 0 else number] += 1
        uses[-1] += 1  # the result of the program
        makers: dict[int, _Node] = {}  # value -> node that made it
        for number, step in enumerate(self.steps):
            sources = [source if source >= 0 else number for source in step.sources]
            result = number + 1
            self.holder[result] = self.holder[sources[0]] if isinstance(step, Flatten) else result
            before = makers.get(sources[0]) if len(sources) == 1 and uses[sources[0]] == 1 else None
            if isinstance(step, Flatten):
                continue
            if before is not None and self._joins(before, step, result):
                makers[result] = before
                continue
            node = makers[result] = _Node(step, sources, result)
            self.nodes.append(node)
            if isinstance(step, SparseConv):
                node.conv = ConvPlan(step, self.shapes[sources[0]], self.shapes[result], self.lanes)
            elif isinstance(step, Activation):
                node.activation = step
            elif isinstance(step, MaxPool) and before is not None and self._swaps(before):
                before.activation, node.activation = None, before.activation

    def _joins(self, node: _Node, step: Step, result: int) -> bool:
        """Let a node do a step as well, if it can."""
        if isinstance(step, Activation) and node.activation is None and not isinstance(node.step, Concat):
            node.activation = step
        elif isinstance(step, MaxPool) and node.conv is not None and not node.pooled and self._pools(node, step):
            node.pooled = True
        else:
            return False
        node.result = result
        return True

    def _pools(self, node: _Node, pool: MaxPool) -> bool:
        exact = node.activation is None or node.activation.monotone
        return exact and node.conv is not None and node.conv.can_pool(pool)

    @staticmethod
    def _swaps(node: _Node) -> bool:
        """Whether a max-pool may come before the activation of the node before it."""
        return node.activation is not None and node.activation.monotone and node.activation is not node.step

    # ---- arrangements ----

    def _need(self, key: Key, above: int = 0, below: int = 0, left: int = 0, row: int = 0) -> Key:
        channels, height, width = image_size(self.shapes[key.value])
        size = (channels * key.phases, height // key.strips, -(-width // key.phases))
        images, lanes = (1, 1) if key.compact else (key.images, self.lanes)
        buffer = self.buffers.setdefault(key, Buffer(size, images, lanes))
        buffer.above, buffer.below = max(buffer.above, above), max(buffer.below, below)
        buffer.left, buffer.row = max(buffer.left, left), max(buffer.row, row)
        return key

    def _key(self, value: int) -> Key:
        """The arrangement in which work entry by entry reads a value."""
        root = self.holder[value]
        if root != value:
            return Key(root, self.lanes, 1, True)
        if root in self.primary:
            return self.primary[root]._replace(strips=1, compact=False)
        if len(self.shapes[root]) == 1:
            return Key(root, self.lanes, 1, True)
        return Key(root, images_of(image_size(self.shapes[root])[2], self.lanes))

    def _keys(self, node: _Node) -> list[Key]:
        """The arrangements in which a node reads its sources."""
        first = self.holder[node.sources[0]]
        if node.conv is not None:
            return [Key(first, node.conv.images, node.conv.phases, strips=self._strips(node, node.conv))]
        if isinstance(node.step, SparseLinear):
            return [Key(first, self.lanes, 1, True, compact=self.single)]
        keys = [self._key(source) for source in node.sources]
        flat = [key.flat for key in keys]
        like = keys[flat.index(True)] if any(flat) else keys[0]  # flattened entries are found in that order alone
        return [Key(key.value, like.images, 1, like.flat) for key in keys]

    def _strips(self, node: _Node, conv: ConvPlan) -> int:
        """Strips into which a convolution cuts the rows of a single image."""
        height = conv.out[1]
        strips = conv.images if self.single and conv.window.stride == (1, 1) else 1
        if (conv.above, conv.below) != (conv.window.kernel[0] // 2 * conv.window.dilation[0],) * 2 or conv.margin:
            strips = 1  # as many rows as before
        while strips > 1 and (
            height % strips or height // strips < conv.above or (node.pooled and height // strips % 2)
        ):
            strips //= 2
        return strips

    def _arrange(self, node: _Node) -> None:
        keys, conv = self._keys(node), node.conv
        for key in keys:
            if conv is None:
                self._need(key)
            else:
                self._need(key, conv.above, conv.below, conv.left, conv.row)
        self.primary[node.result] = self._need(keys[0]._replace(value=node.result, phases=1))

    # ---- operations ----

    def _int(self, values: Any) -> int:
        self.ints.append(np.ascontiguousarray(values, np.int32).ravel())
        self.int_count += self.ints[-1].size
        return self.int_count - self.ints[-1].size

    def _float(self, values: Any) -> int:
        self.floats.append(np.ascontiguousarray(values, np.float32).ravel())
        self.float_count += self.floats[-1].size
        return self.float_count - self.floats[-1].size

    def _source(self, key: Key) -> Buffer:
        """A value as a node reads it, moved there if it was made otherwise."""
        buffer = self.buffers[key]
        if key not in self.made:
            self._move_in(key)
        buffer.last = len(self.operations)
        return buffer

    def _steps(self, buffer: Buffer, key: Key, value: int) -> tuple[int, int]:
        """Floats from one channel and from one row to the next, in a value as its reader sees its shape."""
        if not key.flat:
            return buffer.channel_step, buffer.row_step
        _, height, width = image_size(self.shapes[value])
        return height * width * buffer.lanes, width * buffer.lanes

    def _add(self, kind: int, node: _Node, sources: Sequence[tuple[Buffer, Key, int]], **fields: Any) -> dict[str, Any]:
        """An operation of a node into its result."""
        key = self.primary[node.result]
        operation: dict[str, Any] = {"kind": kind, "images": key.images, "constants": self.none}
        operation |= {"scale": -1, "bias": -1, "factors": -1}
        for role, (buffer, source_key, value) in zip(("source", "other"), sources):
            operation[role] = buffer
            operation[f"{role}_channel"], operation[f"{role}_row"] = self._steps(buffer, source_key, value)
        self._into(operation, key)
        if node.activation is not None:
            operation["activation"] = 1 + KINDS.index(node.activation.kind)
            operation["constants"] = self._float([node.activation.alpha, node.activation.beta])
        self.operations.append(operation | fields)
        return self.operations[-1]

    def _into(self, operation: dict[str, Any], key: Key) -> None:
        buffer = self.buffers[key]
        if key not in self.made:
            self.made.add(key)
            buffer.first = buffer.last = len(self.operations)
        channels, height, width = image_size(self.shapes[key.value]) if key.flat else buffer.size
        vectors = width if key.flat else buffer.vectors
        operation["target"] = buffer
        operation["target_channel"], operation["target_row"] = self._steps(buffer, key, key.value)
        operation |= {"channels": channels, "height": height, "vectors": vectors, "width": width, "mask": -1}
        operation |= {"above": buffer.above, "below": buffer.below, "left": buffer.left}
        operation["right"] = 0 if key.flat else buffer.row_step // self.lanes - buffer.left - buffer.vectors
        operation["strips"] = key.strips
        used = buffer.size[2] * buffer.images - (buffer.vectors - 1) * self.lanes
        if not key.flat and used < self.lanes:
            operation["mask"] = self._int(np.where(np.arange(self.lanes) < used, -1, 0))

    def _move_in(self, key: Key) -> None:
        operation: dict[str, Any] = {"kind": MOVE, "images": key.images, "phases": key.phases, "target_image": 1}
        operation["target_step"] = self.buffers[key].images
        self._into(operation, key)
        shape = self.shapes[key.value]
        operation["width"] = image_size(shape)[2]
        if key.value in self.primary:
            made = self.primary[key.value]
            source = self.buffers[made]
            source.last = len(self.operations)
            operation |= {
                "source": source,
                "source_images": source.images,
                "source_rows": image_size(shape)[1] // made.strips,
            }
            operation["source_channel"], operation["source_row"] = self._steps(source, made, key.value)
        else:
            _, height, width = image_size(shape)
            operation |= {"source_space": INPUT, "source_part": math.prod(shape), "source_images": 1}
            operation |= {"source_channel": height * width, "source_row": width, "source_rows": height}
            if key.flat:
                operation |= {"channels": 1, "height": 1, "width": math.prod(shape), "vectors": math.prod(shape)}
        self.operations.append(operation)

    def _move_out(self, value: int) -> None:
        shape = self.shapes[value]
        channels, height, width = image_size(shape)
        operation: dict[str, Any] = {"kind": MOVE, "images": 1, "phases": 1, "target_space": OUTPUT, "mask": -1}
        operation |= {"channels": channels, "height": height, "width": width, "target_image": math.prod(shape)}
        operation |= {"target_step": 1, "strips": 1, "source_rows": height}
        operation |= {"target_channel": height * width, "target_row": width, "source_channel": height * width}
        if value in self.primary:
            key = self.primary[value]
            buffer = operation["source"] = self.buffers[key]
            buffer.last = len(self.operations)
            operation |= {"images": key.images, "source_images": buffer.images, "source_rows": height // key.strips}
            operation["source_channel"], operation["source_row"] = self._steps(buffer, key, value)
        else:
            operation |= {
                "source_space": INPUT,
                "source_part": math.prod(shape),
                "source_images": 1,
                "source_row": width,
            }
        operation["target_part"] = operation["images"] * math.prod(shape)
        self.operations.append(operation)

    def _emit(self, node: _Node) -> None:
        keys = self._keys(node)
        sources = [(self._source(key), key, value) for key, value in zip(keys, node.sources, strict=True)]
        for buffer, _, _ in sources:
            buffer.last = len(self.operations)
        step = node.step
        if node.conv is not None:
            self._emit_conv(node, node.conv, sources)
        elif isinstance(step, SparseLinear):
            self._emit_linear(node, step, sources)
        elif isinstance(step, MaxPool | AvgPool | AdaptiveAvgPool):
            self._emit_pool(node, step, sources)
        elif isinstance(step, Concat):
            for number, source in enumerate(sources):
                done = sum(image_size(self.shapes[value])[0] for _, _, value in sources[:number])
                operation = self._add(MAP, node, [source])
                operation["target_extra"] = done * operation["target_channel"]
                operation["channels"] = image_size(self.shapes[source[2]])[0]
        elif isinstance(step, ScaleShift):
            operation = self._add(MAP, node, sources)
            operation |= {"scale": self._float(step.scale), "bias": self._float(step.shift)}
        else:
            self._add({Activation: MAP, Add: ADD, Multiply: MULTIPLY}[type(step)], node, sources)
        self.scratch = max(self.scratch, self.operations[-1]["vectors"] * self.lanes)

    def _in_order(
        self, step: SparseConv | SparseLinear, output: Array, tap: Array, taps: int, place: Array, weight: Array
    ) -> dict[str, int]:
        """The weights, each output's together, and outputs with as many weights one after the other: the processor can
        then foresee where their loops end.
        """
        counts = np.bincount(output * taps + tap, minlength=len(step.weight) * taps).reshape(-1, taps)
        order = np.lexsort((*counts.T[::-1], counts.sum(1)))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        sequence = np.lexsort((place, tap, rank[output]))
        return {
            "order": self._int(order),
            "counts": self._int(counts[order]),
            "places": self._int(place[sequence]),
            "weights": self._float(weight[sequence]),
            "scale": -1 if step.scale is None else self._float(step.scale[order]),
            "bias": -1 if step.bias is None else self._float(step.bias[order]),
        }

    def _emit_conv(self, node: _Node, conv: ConvPlan, sources: list[tuple[Buffer, Key, int]]) -> None:
        step, window, buffer = conv.step, conv.window, sources[0][0]
        weight = step.weight if step.weight.ndim == 4 else step.weight[:, :, None]
        o, i, ky, kx = np.nonzero(weight)
        seen = conv.sees[kx]
        o, i, ky, kx = o[seen], i[seen], ky[seen], kx[seen]
        channel = (o // (weight.shape[0] // step.groups) * weight.shape[1] + i) * conv.phases + conv.phase[kx]
        place = channel * buffer.channel_step + (ky * window.dilation[0] - window.padding[0]) * buffer.row_step
        shifts = np.array([0, *sorted(set(conv.shift[conv.sees].tolist()) - {0})])
        tap = np.zeros(conv.shift.shape, np.int64)
        tap[conv.sees] = [shifts.tolist().index(shift) for shift in conv.shift[conv.sees]]
        largest = LARGEST_ROWS.get(conv.vectors, 1 if node.pooled else 0)
        self._add(
            CONV,
            node,
            sources,
            source_vectors=conv.vectors,
            margin=conv.margin,
            row_stride=window.stride[0],
            largest=largest,
            taps=len(shifts),
            shifts=self._int(shifts * conv.images),
            pooled=int(node.pooled),
            **self._in_order(step, o, tap[kx], len(shifts), place, weight[o, i, ky, kx]),
        )

    def _emit_linear(self, node: _Node, step: SparseLinear, sources: list[tuple[Buffer, Key, int]]) -> None:
        rows, columns = np.nonzero(step.weight)
        inputs, outputs, lanes = step.weight.shape[1], step.weight.shape[0], sources[0][0].lanes
        self._add(
            LINEAR,
            node,
            sources,
            channels=outputs,
            height=math.prod(self.shapes[node.result]) // outputs,
            source_images=sources[0][0].images,
            source_row=inputs * lanes,
            target_row=outputs * lanes,
            **self._in_order(step, rows, np.zeros_like(rows), 1, columns * lanes, step.weight[rows, columns]),
        )

    def _emit_pool(
        self, node: _Node, step: MaxPool | AvgPool | AdaptiveAvgPool, sources: list[tuple[Buffer, Key, int]]
    ) -> None:
        buffer, key, value = sources[0]
        shape = self.shapes[value]
        size = image_size(shape)[1:]
        spans: list[list[tuple[int, int]]] = []
        if isinstance(step, AdaptiveAvgPool):
            for count, length in zip(step.out(shape), size, strict=True):
                spans.append([adaptive_span(i, count, length) for i in range(count)])
            factors = self._float(1 / np.outer(*(np.diff(axis)[:, 0] for axis in spans)))
        else:
            window = step.window(shape)
            for axis in range(2):
                starts = np.arange(window.out[axis]) * window.stride[axis] - window.padding[axis]
                ends = np.minimum(starts + window.kernel[axis], size[axis])
                spans.append(list(zip(np.maximum(starts, 0).tolist(), ends.tolist(), strict=True)))
            factors = self._float(1 / pool_counts(step, shape)) if isinstance(step, AvgPool) else -1
        vectors = size[1] if key.flat else buffer.vectors
        operation = self._add(POOL, node, sources, source_vectors=vectors, factors=factors)
        operation["windows"] = self._int([*spans[0], *spans[1]])
        self.scratch = max(self.scratch, (vectors + operation["vectors"]) * self.lanes)
