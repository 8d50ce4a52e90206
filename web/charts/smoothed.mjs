// A mean of [step, value] that moves with the last tenth of the points or so, and that no start value draws.
export function smoothed(points) {
  const keep = 1 - 2 / (Math.min(100, Math.max(1, points.length / 12)) + 1);
  let sum = 0, weight = 0;
  return points.map(([step, value]) => {
    if (!Number.isFinite(value)) return [step, null];
    sum = sum * keep + value * (1 - keep);
    weight = weight * keep + (1 - keep);
    return [step, sum / weight];
  });
}
