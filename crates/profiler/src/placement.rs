//! Which placement of the processors a profile is about, and what was timed there.

use lathe_latency::Placement;

/// The placement in which most of the round trips lie: the centre of the window that holds most of
/// them, its width that of a placement. `None` without round trips.
pub(crate) fn most_common(round_trips_ns: impl IntoIterator<Item = u64>) -> Option<Placement> {
    let mut sorted: Vec<u64> = round_trips_ns.into_iter().collect();
    sorted.sort_unstable();
    let width = Placement::TOLERANCE * Placement::TOLERANCE;
    let mut best = 0..0;
    let mut start = 0;
    for end in 0..sorted.len() {
        while sorted[end] as f64 > sorted[start] as f64 * width {
            start += 1;
        }
        if end + 1 - start > best.len() {
            best = start..end + 1;
        }
    }
    let inside = sorted.get(best)?;
    let middle = *inside.get(inside.len() / 2)?;
    Some(Placement {
        round_trip_ns: middle.max(1) as f64,
        share: inside.len() as f64 / sorted.len() as f64,
    })
}

/// The placement around one round trip.
pub(crate) fn around(round_trip_ns: u64) -> Placement {
    Placement {
        round_trip_ns: round_trip_ns.max(1) as f64,
        share: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crowd_is_found_among_strays() {
        let near = (0..60).map(|i| 74 + i % 9);
        let far = (0..30).map(|i| 330 + i % 60);
        let placement = most_common(near.chain(far).chain([53, 130, 130])).unwrap();
        assert!((74.0..=82.0).contains(&placement.round_trip_ns));
        assert!((placement.share - 60.0 / 93.0).abs() < 1e-12);
        assert!(placement.holds(70) && placement.holds(90));
        assert!(!placement.holds(53) && !placement.holds(105) && !placement.holds(340));
        assert_eq!(most_common([]), None);
        assert_eq!(most_common([0]).unwrap().round_trip_ns, 1.0);
    }
}
