"""The world: people, garments and poses by number, and photos of any combination."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from omfa_jax.body.body_params import BodyParams
from omfa_jax.body.camera import Camera
from omfa_jax.body.smplx_joints import JOINT_INDEX
from omfa_jax.core.errors import OmfaError
from omfa_jax.synthetic import (
    flat_garment,
    garments,
    mesh_parts,
    people,
    random_poses,
    raster_kernels,
    scene,
    shading,
)
from omfa_jax.synthetic.garments import Garment
from omfa_jax.synthetic.people import Person
from omfa_jax.synthetic.random_poses import RandomPose

DISTANCE_M = 3.2
_STREAMS = ("person", "garment", "pose", "view")

# in the order of BODY_25; a name in brackets is a landmark vertex, two names are averaged
BODY_25 = (
    *("[nose]", "left_shoulder right_shoulder", "right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist", "left_hip right_hip", "right_hip"),
    *("right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye"),
    *("[right_ear]", "[left_ear]", "left_foot", "left_foot", "left_ankle"),
    *("right_foot", "right_foot", "right_ankle"),
)

MIN_SIDE_PX = 16


@dataclass(frozen=True, eq=False)
class View:
    """The framing, light and wall of a photo.

    `margin_top`: space above the head, as a share of the height. `below_hips_m`: the lower edge of
    the frame below the hips. `aside`: horizontal shift, as a share of the width. `rise_m`: height
    of the camera above its target. `light`: unit vector to the lamp, world axes. `phases`: place
    the folds of the cloth.
    """

    index: int
    margin_top: float
    below_hips_m: float
    aside: float
    rise_m: float
    light: Float32[np.ndarray, "3"]
    wall_rgb: Float32[np.ndarray, "3"]
    phases: Float32[np.ndarray, "3"]


@dataclass(frozen=True, eq=False)
class RenderedPhoto:
    """A photo and its ground truth.

    `parse`: CIHP ids. `keypoints`: BODY_25 rows (x px, y px, confidence), zero if the point is
    outside the image. `camera` and `params` reproduce the body in the image.
    """

    image: UInt8[np.ndarray, "h w 3"]
    parse: UInt8[np.ndarray, "h w"]
    keypoints: Float32[np.ndarray, "25 3"]
    params: BodyParams
    camera: Camera


class World:
    """A world: person, garment, pose and view number i are functions of (seed, i).

    Images are rendered at `supersample` times their size and averaged down. Not thread-safe: the
    buffers are reused.
    """

    def __init__(self, seed: int, height_px: int, width_px: int, supersample: int = 2) -> None:
        if min(height_px, width_px) < MIN_SIDE_PX or supersample < 1 or seed < 0:
            came = f"{width_px}x{height_px} px, supersample {supersample}, seed {seed}"
            size = f"{MIN_SIDE_PX}x{MIN_SIDE_PX}"
            raise OmfaError(
                f"synthetic world: expected at least {size} px and seed >= 0, got {came}"
            )
        self.seed, self.supersample = seed, supersample
        self.height_px, self.width_px = height_px, width_px
        self._scene = scene.load_scene()
        fine = (height_px * supersample, width_px * supersample)
        self._inverse_depth = np.empty(fine, np.float32)
        self._triangle = np.empty(fine, np.int32)
        self._weights = np.empty((*fine, 2), np.float32)
        self._color = np.empty((*fine, 3), np.float32)
        self._label = np.empty(fine, np.uint8)
        self._normals = np.empty_like(self._scene.rest)
        # texels slightly smaller than the rendered pixels at the usual framing
        texture_px = max(64, height_px * supersample * 3 // 4)
        # painting is slow, and the same garment is rendered several times in a row
        self._texture = lru_cache(maxsize=4)(lambda garment: garment.make_texture(texture_px))
        self._garment = lru_cache(maxsize=8)(
            lambda index: garments.sample_garment(self._rng("garment", index), index)
        )

    def get_person(self, index: int) -> Person:
        """Return person number `index`."""
        return people.sample_person(self._rng("person", index), index)

    def get_garment(self, index: int) -> Garment:
        """Return garment number `index`."""
        return self._garment(index)

    def get_pose(self, index: int) -> RandomPose:
        """Return pose number `index`."""
        return random_poses.sample_pose(self._rng("pose", index), index)

    def get_view(self, index: int) -> View:
        """Return view number `index`: light wall, soft light, from top of the head to thighs."""
        rng = self._rng("view", index)
        light = np.array([rng.uniform(-0.45, 0.45), rng.uniform(0.25, 0.6), 1.0])
        wall = rng.uniform(0.88, 0.97) * (1 + rng.uniform(-0.02, 0.02, 3))
        return View(
            index=index,
            margin_top=float(rng.uniform(0.03, 0.07)),
            below_hips_m=float(rng.uniform(0.1, 0.17)),
            aside=float(rng.uniform(-0.03, 0.03)),
            rise_m=float(rng.uniform(-0.15, 0.25)),
            light=(light / np.linalg.norm(light)).astype(np.float32),
            wall_rgb=np.clip(wall, 0, 1).astype(np.float32),
            phases=rng.uniform(0, 2 * np.pi, 3).astype(np.float32),
        )

    def render_photo(
        self, person: Person, garment: Garment, pose: RandomPose, view: View
    ) -> RenderedPhoto:
        """Render `person` in `garment` and `pose`, seen in `view`."""
        stage = self._scene
        # the camera depends on the pose, so that raised arms stay in the frame
        params, vertices, joints, camera = self._place_body(person, garment, pose, view)
        fine = self.supersample
        screen = np.empty_like(vertices)
        focal, center = np.multiply(camera.focal_px, fine), np.multiply(camera.center_px, fine)
        raster_kernels.project_vertices(
            vertices, camera.rotation, camera.translation, focal, center, screen
        )
        faces, materials = stage.faces[person.hair_style], stage.materials[person.hair_style]
        raster_kernels.compute_normals(vertices, faces, self._normals)
        raster_kernels.rasterize(
            screen, faces, materials, stage.attributes, garment.cut,
            self._inverse_depth, self._triangle, self._weights,
        )  # fmt: skip
        self._color[:] = view.wall_rgb
        self._label[:] = mesh_parts.CIHP["background"]
        shading.shade_pixels(
            shading.ShadedMesh(
                screen, faces, materials, stage.attributes, self._normals, stage.labels
            ),
            shading.Fragments(self._triangle, self._weights),
            shading.Look(
                _palette(person, garment),
                self._texture(garment),
                garment.cut,
                view.light,
                view.phases,
            ),
            self._color,
            self._label,
        )
        image = np.empty((self.height_px, self.width_px, 3), np.uint8)
        parse = np.empty((self.height_px, self.width_px), np.uint8)
        shading.downsample(self._color, self._label, fine, image, parse)
        return RenderedPhoto(
            image, parse, self._keypoints(camera, vertices, joints), params, camera
        )

    def compute_keypoints(
        self, person: Person, garment: Garment, pose: RandomPose, view: View
    ) -> Float32[np.ndarray, "25 3"]:
        """Return the keypoints of a photo without rendering it."""
        _, vertices, joints, camera = self._place_body(person, garment, pose, view)
        return self._keypoints(camera, vertices, joints)

    def render_garment(
        self, garment: Garment
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """Render the shop photo of a garment, flat on white, and its mask (True on the garment)."""
        # from the garment's own seed, so that its shop photo depends on nothing else
        phases = np.random.default_rng(garment.texture_seed).uniform(0, 2 * np.pi, 3)
        return flat_garment.draw_flat_garment(
            garment,
            self._texture(garment),
            phases.astype(np.float32),
            self.height_px,
            self.width_px,
            self.supersample,
        )

    def _rng(self, stream: str, index: int) -> np.random.Generator:
        # a stream per kind: adding a draw to one kind leaves the others as they are
        return np.random.default_rng([self.seed, _STREAMS.index(stream), index])

    def _place_body(
        self, person: Person, garment: Garment, pose: RandomPose, view: View
    ) -> tuple[BodyParams, Float32[np.ndarray, "v 3"], Float[np.ndarray, "55 3"], Camera]:
        params = pose.make_params(person.betas)
        vertices, joints = self._scene.pose_vertices(params, garment.fit)
        return params, vertices, joints, self._frame(vertices, joints, view)

    def _frame(
        self, vertices: Float32[np.ndarray, "v 3"], joints: Float[np.ndarray, "55 3"], view: View
    ) -> Camera:
        """Return the camera that shows top of the head to thighs, wider if the arms need it."""
        # hair stands up to 2.6 cm above the skull
        crown = vertices[self._scene.landmarks["crown"], 1] + 0.025
        hips = joints[[JOINT_INDEX["left_hip"], JOINT_INDEX["right_hip"]]].mean(axis=0)
        bottom = hips[1] - view.below_hips_m
        tall = (crown - bottom) / (1 - view.margin_top)
        arms = [
            i for name, i in JOINT_INDEX.items() if name.endswith(("elbow", "wrist", "middle3"))
        ]
        sides = np.r_[joints[arms, 0], joints[JOINT_INDEX["head"], 0]]
        low, high = sides.min() - 0.05, sides.max() + 0.05
        aspect = self.width_px / self.height_px
        # at most 12% wider: the person's size in the image should not vary much with the pose
        tall = min(max(tall, (high - low) / aspect), tall * 1.12)
        center_x = 0.5 * hips[0] + 0.5 * joints[JOINT_INDEX["neck"], 0]
        room = tall * aspect / 2
        center_x = np.clip(center_x, min(high - room, center_x), max(low + room, center_x))
        top = crown + view.margin_top * tall
        target = np.array([center_x - view.aside * tall * aspect, top - tall / 2, joints[0, 2]])
        eye = target + np.array([0, view.rise_m, DISTANCE_M])
        forward = (target - eye) / np.linalg.norm(target - eye)
        right = np.array([1.0, 0, 0])
        rotation = np.stack([right, np.cross(forward, right), forward])
        # `tall` metres at the target's distance fill the height
        focal = self.height_px / tall * float(np.linalg.norm(target - eye))
        return Camera(
            focal_px=(focal, focal),
            center_px=(self.width_px / 2, self.height_px / 2),
            width_px=self.width_px,
            height_px=self.height_px,
            rotation=rotation,
            translation=-rotation @ eye,
        )

    def _keypoints(
        self,
        camera: Camera,
        vertices: Float32[np.ndarray, "v 3"],
        joints: Float[np.ndarray, "55 3"],
    ) -> Float32[np.ndarray, "25 3"]:
        points = np.stack([self._point(name, vertices, joints) for name in BODY_25])
        pixels, _ = camera.project(points)
        within = (pixels >= 0) & (pixels < [self.width_px, self.height_px])
        rows = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
        return (rows * np.all(within, axis=1, keepdims=True)).astype(np.float32)

    def _point(
        self, name: str, vertices: Float32[np.ndarray, "v 3"], joints: Float[np.ndarray, "55 3"]
    ) -> Float[np.ndarray, "3"]:
        if name.startswith("["):
            return vertices[self._scene.landmarks[name.strip("[]")]]
        if name in ("left_eye", "right_eye"):
            return joints[JOINT_INDEX[name]]
        return joints[[JOINT_INDEX[part] for part in name.split()]].mean(axis=0)


def _palette(person: Person, garment: Garment) -> Float32[np.ndarray, "5 3"]:
    """Return the colours in the order of the rows named in `shading`."""
    skin, eyes, hair = person.skin_rgb, person.eye_rgb, person.hair_rgb
    return np.stack([skin, eyes, hair, person.trousers_rgb, garment.trim_rgb]).astype(np.float32)
