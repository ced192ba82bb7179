//! Places labels beside their points so that they cover nothing.

/// A label's box on the page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LabelBox {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Height of a line of text in the charts.
const LINE_HEIGHT: f64 = 17.0;
/// Average advance of a character in the charts.
const CHARACTER_WIDTH: f64 = 7.3;
/// Distance between a point and its label.
const GAP: f64 = 11.0;

impl LabelBox {
    /// Around text of so many characters, centred on the origin.
    pub(crate) fn of_text(text: &str) -> Self {
        let width = text.chars().count() as f64 * CHARACTER_WIDTH;
        Self {
            x: -width / 2.0,
            y: -LINE_HEIGHT / 2.0,
            width,
            height: LINE_HEIGHT,
        }
    }

    fn moved(self, x: f64, y: f64) -> Self {
        Self {
            x: self.x + x,
            y: self.y + y,
            ..self
        }
    }

    fn contains(&self, (x, y): (f64, f64)) -> bool {
        let pad = 3.0;
        (self.x - pad..=self.x + self.width + pad).contains(&x)
            && (self.y - pad..=self.y + self.height + pad).contains(&y)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.width
            && other.x < self.x + self.width
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }

    fn is_inside(&self, bounds: &Self) -> bool {
        self.x >= bounds.x
            && self.y >= bounds.y
            && self.x + self.width <= bounds.x + bounds.width
            && self.y + self.height <= bounds.y + bounds.height
    }
}

/// The best place for `label` (as from [`LabelBox::of_text`]) around `at`: inside `bounds` and
/// clear of `taken` before anything else, then covering as few `points` as possible.
pub(crate) fn place(
    label: LabelBox,
    at: (f64, f64),
    bounds: &LabelBox,
    taken: &[LabelBox],
    points: &[(f64, f64)],
) -> LabelBox {
    let (dx, dy) = (label.width / 2.0 + GAP, LINE_HEIGHT / 2.0 + GAP);
    let directions = [
        (1.0, -0.8),
        (1.0, 0.0),
        (0.0, -1.0),
        (1.0, 0.8),
        (-1.0, -0.8),
        (-1.0, 0.0),
        (0.0, 1.0),
        (-1.0, 0.8),
        (0.0, -2.0),
        (0.0, 2.0),
    ];
    let candidates = directions.map(|(x, y)| label.moved(at.0 + x * dx, at.1 + y * dy));
    let cost = |candidate: &LabelBox| {
        let covered = points
            .iter()
            .filter(|point| candidate.contains(**point))
            .count();
        let collisions = taken
            .iter()
            .filter(|other| candidate.overlaps(other))
            .count();
        let outside = usize::from(!candidate.is_inside(bounds));
        (outside + collisions, covered)
    };
    candidates
        .into_iter()
        .min_by_key(cost)
        .unwrap_or(candidates[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: LabelBox = LabelBox {
        x: 0.0,
        y: 0.0,
        width: 200.0,
        height: 100.0,
    };

    #[test]
    fn a_label_stays_inside_and_off_points_and_labels() {
        let label = LabelBox::of_text("chosen");
        let corner = (195.0, 5.0);
        let first = place(label, corner, &BOUNDS, &[], &[]);
        assert!(first.is_inside(&BOUNDS), "{first:?}");
        let second = place(label, corner, &BOUNDS, &[first], &[]);
        assert!(!second.overlaps(&first), "{second:?}");
        let crowd: Vec<_> = (0..10)
            .map(|i| (110.0 + f64::from(i) * 5.0, 40.0))
            .collect();
        let third = place(label, (100.0, 50.0), &BOUNDS, &[], &crowd);
        assert!(crowd.iter().all(|p| !third.contains(*p)), "{third:?}");
    }
}
