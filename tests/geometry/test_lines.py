"""Line labels of points that were kept by rejection: the units of every standard error."""

import jax
import numpy as np

from metricflow import geometry


def test_labels_of_rejected_points_do_not_repeat_from_batch_to_batch():
    """Points of one label are on one projective line, over all the batches that it takes."""
    manifold = geometry.fermat(2)
    points = geometry.sample_points_in_chart(jax.random.key(0), manifold, 300, method="reject")
    labels, counts = np.unique(np.asarray(points.line), return_counts=True)
    # 1 of 12 points is kept, so few of the three others of a line are; labels of four batches
    # on top of each other would leave about 175
    assert len(labels) > 220
    assert counts.max() <= manifold.degree
    for label in labels[counts >= 3]:
        values = np.linalg.svd(np.asarray(points.z)[np.asarray(points.line) == label])[1]
        assert values[2] < 1e-10 * values[0]
