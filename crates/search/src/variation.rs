//! New genomes of ordinal variables, by crossover and mutation of old ones.

use rand::{Rng, RngExt};

use crate::{Genome, Space};

/// How near children stay to their parents: Deb & Agrawal's distribution index.
const CROSSOVER_INDEX: f64 = 15.0;
/// How near a mutated gene stays to what it was.
const MUTATION_INDEX: f64 = 20.0;
/// Probability that a mutation too small to change a gene takes a step nevertheless.
const STEP_PROBABILITY: f64 = 0.1;

/// Two children: in half of the variables, values around the parents' by simulated binary crossover
/// (Deb & Agrawal 1995), rounded, in either order.
pub(crate) fn crossover(space: &Space, parents: [&[usize]; 2], rng: &mut impl Rng) -> [Genome; 2] {
    let mut children = parents.map(<[usize]>::to_vec);
    for (index, count) in space.cardinalities().iter().enumerate() {
        let [a, b] = parents.map(|parent| parent[index]);
        if a == b || rng.random_bool(0.5) {
            continue;
        }
        let (low, high) = (a.min(b), a.max(b));
        let mut genes = around([low, high], count - 1, rng.random());
        if rng.random_bool(0.5) {
            genes.reverse();
        }
        [children[0][index], children[1][index]] = genes;
    }
    children
}

/// Values around two of `0..=last`, by a uniform number `u`.
fn around([low, high]: [usize; 2], last: usize, u: f64) -> [usize; 2] {
    let [below, above, last] = [low, high, last].map(|gene| gene as f64);
    let difference = above - below;
    let exponent = CROSSOVER_INDEX + 1.0;
    // The spread is cut off where a child would leave the range.
    let spread = |room: f64| {
        let alpha = 2.0 - (1.0 + 2.0 * room / difference).powf(-exponent);
        let share = match u <= 1.0 / alpha {
            true => u * alpha,
            false => 1.0 / (2.0 - u * alpha),
        };
        share.powf(1.0 / exponent)
    };
    let middle = (below + above) / 2.0;
    let low = middle - spread(below) * difference / 2.0;
    let high = middle + spread(last - above) * difference / 2.0;
    [low, high].map(|gene| gene.round().clamp(0.0, last) as usize)
}

/// Mutates each gene with `probability`: polynomial mutation (Deb & Goyal 1996), rounded, which leaves
/// most of those with few values as they are.
pub(crate) fn mutate(space: &Space, genome: &mut [usize], probability: f64, rng: &mut impl Rng) {
    for (gene, &count) in genome.iter_mut().zip(space.cardinalities()) {
        if count > 1 && rng.random_bool(probability) {
            *gene = mutated(*gene, count, rng);
        }
    }
}

/// A value of `0..count` around `gene`.
fn mutated(gene: usize, count: usize, rng: &mut impl Rng) -> usize {
    let goes_up = match gene {
        0 => true,
        gene if gene + 1 == count => false,
        _ => rng.random_bool(0.5),
    };
    let room = if goes_up { count - 1 - gene } else { gene };
    let u: f64 = rng.random();
    let share = 1.0 - u.powf(1.0 / (MUTATION_INDEX + 1.0));
    let steps = (share * (count - 1) as f64).round() as usize;
    let least = usize::from(rng.random_bool(STEP_PROBABILITY));
    let steps = steps.max(least).min(room);
    if goes_up { gene + steps } else { gene - steps }
}

/// Gives `genes` genes at random places any other values.
pub(crate) fn scatter(space: &Space, genome: &mut [usize], genes: usize, rng: &mut impl Rng) {
    for _ in 0..genes {
        let index = rng.random_range(0..genome.len());
        let count = space.cardinalities()[index];
        if count > 1 {
            genome[index] = (genome[index] + rng.random_range(1..count)) % count;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    proptest! {
        #[test]
        fn children_stay_in_the_space_and_near_their_parents(
            pairs in prop::collection::vec((1usize..80, 0usize..80, 0usize..80), 1..30),
            seed: u64,
        ) {
            let counts: Vec<usize> = pairs.iter().map(|p| p.0).collect();
            let space = Space::new(counts).unwrap();
            let [a, b]: [Genome; 2] =
                [|p: &(usize, usize, usize)| p.1 % p.0, |p: &(usize, usize, usize)| p.2 % p.0]
                    .map(|gene| pairs.iter().map(gene).collect());
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            for mut child in crossover(&space, [&a, &b], &mut rng) {
                prop_assert!(space.check(&child).is_ok());
                mutate(&space, &mut child, 0.5, &mut rng);
                prop_assert!(space.check(&child).is_ok());
                scatter(&space, &mut child, 3, &mut rng);
                prop_assert!(space.check(&child).is_ok());
            }
        }
    }

    #[test]
    fn draws_lean_to_both_sides() {
        let space = Space::new([9, 2, 1].repeat(20)).unwrap();
        let most: usize = space.cardinalities().iter().map(|count| count - 1).sum();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut shares = [0; 4];
        for _ in 0..1000 {
            let genome = space.draw_leaning(&mut rng);
            assert!(space.check(&genome).is_ok());
            let share = genome.iter().sum::<usize>() as f64 / most as f64;
            shares[((4.0 * share) as usize).min(3)] += 1;
        }
        assert!(shares.iter().all(|count| *count > 150), "{shares:?}");
    }

    #[test]
    fn mutations_reach_every_value() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for count in [2, 3, 9] {
            let mut seen = vec![false; count];
            let mut gene = 0;
            for _ in 0..1000 {
                gene = mutated(gene, count, &mut rng);
                seen[gene] = true;
            }
            assert!(seen.iter().all(|seen| *seen), "{seen:?} of {count}");
        }
    }
}
