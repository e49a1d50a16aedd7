"""What a batch holds: the name, shape, dtype and range of every array."""

from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int32, Int64, UInt8

# The type in signatures: arrays on the host. Its keys are those of one of the four classes below;
# which one depends on the records (images or latents) and on the reader (training or evaluation),
# and so is known only at run time. Tests hold real batches to these classes.
Batch = dict[str, np.ndarray]


class Facts(TypedDict):
    """The arrays of every batch.

    `has_pose`: False where the record has no pose map; the image is then black, the latents zero.
    `index`: the number of the person's record in its split.
    """

    has_pose: Bool[np.ndarray, "b"]
    index: Int64[np.ndarray, "b"]


class TrainFacts(Facts):
    """What training adds.

    `task`: row of the task table, drawn by the tasks' weights. `dataset`: place of the record's
    folder in the mixture, 0 without one. `epoch`: completed passes over that folder.
    """

    task: Int32[np.ndarray, "b"]
    dataset: Int32[np.ndarray, "b"]
    epoch: Int32[np.ndarray, "b"]


class EvalFacts(Facts):
    """What evaluation adds.

    `key` and `group` are the record's (str). `valid` is False in the rows that fill up the last
    batch, which repeat the last record.
    """

    key: np.ndarray
    group: np.ndarray
    valid: Bool[np.ndarray, "b"]


class TrainImageBatch(TrainFacts):
    """Image records in training: RGB, 0 to 255, each at the size of its slot.

    Missing garments and faces are white. `pose` has the size of `person`.
    """

    garment: UInt8[np.ndarray, "b garment_h garment_w 3"]
    person: UInt8[np.ndarray, "b person_h person_w 3"]
    face: UInt8[np.ndarray, "b face_h face_w 3"]
    pose: UInt8[np.ndarray, "b person_h person_w 3"]


class TrainLatentBatch(TrainFacts):
    """Latent records in training: VAE latents times the scaling factor, as stored.

    float16 takes half the memory and transfer of float32; the device converts them.
    """

    garment_latents: Float16[np.ndarray, "b garment_h garment_w c"]
    person_latents: Float16[np.ndarray, "b person_h person_w c"]
    face_latents: Float16[np.ndarray, "b face_h face_w c"]
    pose_latents: Float16[np.ndarray, "b person_h person_w c"]


class EvalImageBatch(EvalFacts):
    """Image records in evaluation: RGB in [-1, 1]."""

    garment: Float32[np.ndarray, "b garment_h garment_w 3"]
    person: Float32[np.ndarray, "b person_h person_w 3"]
    face: Float32[np.ndarray, "b face_h face_w 3"]
    pose: Float32[np.ndarray, "b person_h person_w 3"]


class EvalLatentBatch(EvalFacts):
    """Latent records in evaluation: the mean of the VAE's posterior times the scaling factor."""

    garment_latents: Float32[np.ndarray, "b garment_h garment_w c"]
    person_latents: Float32[np.ndarray, "b person_h person_w c"]
    face_latents: Float32[np.ndarray, "b face_h face_w c"]
    pose_latents: Float32[np.ndarray, "b person_h person_w c"]
