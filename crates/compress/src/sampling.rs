//! Which sub-networks a step of a super-network's training is made on.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context;
use lathe_arch::{ModelConfig, SearchSpace, SubnetConfig, Workload};
use lathe_latency::LatencyTable;
use lathe_search::{Cost, Genome, Space};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::LatencyObjective;
use crate::device::Device;

/// Bins of equal width between the least share and the full model.
const BINS: usize = 10;
/// Draws for one network of a bin; after them the nearest is taken.
const MAX_DRAWS: usize = 400;
/// Networks near the front that are moved away from it, one in so many.
const MOVED: u32 = 2;
/// Percent that the shares of attention and MLP may differ by in networks that are not drawn.
const MOST_UNLIKE: usize = 25;
/// Such a network's cost, as a share of the full model's, need not be nearer than this.
const NEAR_ENOUGH: f64 = 0.02;
/// Genes that are then moved a choice up or down, on average.
const MOVED_GENES: f64 = 2.0;

/// A predicted latency of the networks of `space`, in microseconds.
///
/// # Errors
/// When the table lacks a choice of the space or does not cover the workload.
pub fn latency_cost(
    table: &LatencyTable,
    space: &SearchSpace,
    workload: Workload,
    latency: LatencyObjective,
) -> anyhow::Result<Cost> {
    let device = Device::new(&table.device.name, table, space, workload)?;
    Ok(device.cost(latency))
}

/// Parameters of the networks of `space`.
pub fn parameter_cost(model: &ModelConfig, space: &SearchSpace) -> Cost {
    let (model, space) = (model.clone(), space.clone());
    Box::new(move |genome| {
        let network = space.decode(genome);
        network.map_or(f64::NAN, |network| network.parameters(&model) as f64)
    })
}

/// How networks are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// The largest, the smallest and some at random (sandwich rule, 1903.05134).
    Sandwich,
    /// Some at random, every choice of every block as likely as any other.
    Random,
    /// As many at every cost (as whittle has it for 2410.06479).
    Stratified,
    /// Those of a front and their neighbours, as many at every cost.
    Front,
}

impl Sampling {
    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandwich => "sandwich",
            Self::Random => "random",
            Self::Stratified => "stratified",
            Self::Front => "front",
        }
    }
}

impl FromStr for Sampling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Sandwich, Self::Random, Self::Stratified, Self::Front];
        let found = all.into_iter().find(|sampling| sampling.name() == text);
        found.ok_or_else(|| format!("`{text}`: expected sandwich, random, stratified or front"))
    }
}

/// Draws networks of a search space, in f32. What a step draws depends on its number and the seed alone.
pub struct Sampler {
    sampling: Sampling,
    networks: usize,
    seed: u64,
    least_share: f64,
    space: SearchSpace,
    genomes: Space,
    cost: Cost,
    full_cost: f64,
    smallest: Genome,
    median: Genome,
    /// Members of the front by the bin of their cost.
    front: BTreeMap<usize, Vec<Genome>>,
}

/// What a [`Sampler`] is made of.
pub struct SamplerOptions {
    /// How networks are drawn.
    pub sampling: Sampling,
    /// Networks a step, besides the largest and the smallest of a sandwich.
    pub networks: usize,
    /// Networks that cost a smaller share of the full model's cost than this are not wanted: none is
    /// drawn by cost, and the smallest of a sandwich costs as much.
    pub least_share: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// What is near to be drawn from.
    pub front: Vec<SubnetConfig>,
}

impl Sampler {
    /// Draws from `space`, which has but one precision; `cost` is what a genome of it costs.
    ///
    /// # Errors
    /// When a front is wanted and none of its members is of the space and dear enough.
    pub fn new(space: &SearchSpace, cost: Cost, options: SamplerOptions) -> anyhow::Result<Self> {
        let full = space.full_genome();
        let mut sampler = Self {
            sampling: options.sampling,
            networks: options.networks.max(1),
            seed: options.seed,
            least_share: options.least_share,
            full_cost: cost(&full),
            cost,
            space: space.clone(),
            genomes: Space::new(space.cardinalities())?,
            smallest: full.clone(),
            median: full,
            front: BTreeMap::new(),
        };
        for config in &options.front {
            let config = config.clone().with_precision(space.precisions()[0]);
            let genome = space.encode(&config);
            let genome = genome.context("a network of the front is not of the search space")?;
            if let Some(bin) = sampler.bin(sampler.share(&genome)) {
                sampler.front.entry(bin).or_default().push(genome);
            }
        }
        anyhow::ensure!(
            options.sampling != Sampling::Front || !sampler.front.is_empty(),
            "no network of the front costs at least {} of the full model: give another front, or a smaller share",
            options.least_share
        );
        sampler.smallest = sampler.nearest(options.least_share);
        sampler.median = sampler.nearest(0.5 * (options.least_share + 1.0));
        Ok(sampler)
    }

    /// The networks of step `step`, counted from 0.
    ///
    /// # Errors
    /// Never: what is drawn is of the space.
    pub fn networks(&self, step: usize) -> anyhow::Result<Vec<SubnetConfig>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(step as u64);
        let mut genomes = Vec::new();
        if self.sampling == Sampling::Sandwich {
            genomes.extend([self.space.full_genome(), self.smallest.clone()]);
        }
        for _ in 0..self.networks {
            genomes.push(match self.sampling {
                Sampling::Sandwich | Sampling::Random => self.uniform(&mut rng),
                Sampling::Stratified => self.stratified(&mut rng),
                Sampling::Front => self.near_front(&mut rng),
            });
        }
        let configs = genomes.iter().map(|genome| self.decode(genome));
        configs.collect()
    }

    /// The largest network, the smallest that is wanted, and one that costs as much as the mean of both:
    /// of the front where there is one.
    ///
    /// # Errors
    /// Never: they are of the space.
    pub fn yardsticks(&self) -> anyhow::Result<Vec<(&'static str, SubnetConfig)>> {
        let full = self.space.full_genome();
        let all = [
            ("largest", &full),
            ("median", &self.median),
            ("smallest", &self.smallest),
        ];
        let configs = all.map(|(name, genome)| Ok((name, self.decode(genome)?)));
        configs.into_iter().collect()
    }

    /// The members of the front that networks are drawn near, the cheapest first; none where they are
    /// drawn otherwise.
    ///
    /// # Errors
    /// Never: they are of the space.
    pub fn front(&self) -> anyhow::Result<Vec<SubnetConfig>> {
        let is_drawn = self.sampling == Sampling::Front;
        let members = self.front.values().flatten().filter(|_| is_drawn);
        members.map(|genome| self.decode(genome)).collect()
    }

    /// In words: other draws have others.
    pub fn describe(&self) -> String {
        let genes = self.front.values().flatten().flatten();
        // FNV-1a: stable across versions of the standard library.
        let front = genes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, gene| {
            (hash ^ *gene as u64).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!(
            "{}, {} networks, from {} of {:.3}, smallest {:?}, front {front:016x}",
            self.sampling.name(),
            self.networks,
            self.least_share,
            self.full_cost,
            self.smallest
        )
    }

    fn decode(&self, genome: &[usize]) -> anyhow::Result<SubnetConfig> {
        Ok(self.space.decode(genome)?)
    }

    /// Cost as a share of the full model's.
    fn share(&self, genome: &Genome) -> f64 {
        (self.cost)(genome) / self.full_cost
    }

    fn bin(&self, share: f64) -> Option<usize> {
        let at = (share - self.least_share) / (1.0 - self.least_share).max(f64::MIN_POSITIVE);
        (at >= 0.0).then(|| ((BINS as f64 * at) as usize).min(BINS - 1))
    }

    /// The member of the front that costs nearest to `share`; without a front the network with about the
    /// same share of all choices, of MLPs a little more or less than of attention where that is nearer.
    fn nearest(&self, share: f64) -> Genome {
        let full = self.space.full_genome();
        let of_front: Vec<Genome> = self.front.values().flatten().cloned().collect();
        let scaled = |attention: usize, mlp: usize| -> Genome {
            let genes = full.iter().enumerate();
            let genes = genes.map(|(at, gene)| (gene * [attention, mlp][at % 2] + 50) / 100);
            genes.collect()
        };
        let candidates = match of_front.is_empty() {
            false => of_front,
            // The most alike first.
            true => (0..=MOST_UNLIKE)
                .flat_map(|more| (0..=100).map(move |percent| (percent, more)))
                .flat_map(|(percent, more)| {
                    [(percent + more).min(100), percent.saturating_sub(more)]
                        .map(|mlp| scaled(percent, mlp))
                })
                .collect(),
        };
        let distance = |genome: &Genome| (self.share(genome) - share).abs().max(NEAR_ENOUGH);
        let by_distance = |a: &Genome, b: &Genome| distance(a).total_cmp(&distance(b));
        candidates.into_iter().min_by(by_distance).unwrap_or(full)
    }

    fn uniform(&self, rng: &mut ChaCha8Rng) -> Genome {
        self.genomes.draw(rng)
    }

    /// A network of a bin that is drawn first: all its choices lean to the large or the small ones, by
    /// as much as falls in the bin.
    fn stratified(&self, rng: &mut ChaCha8Rng) -> Genome {
        let width = (1.0 - self.least_share) / BINS as f64;
        let wanted = self.least_share + width * (rng.random_range(0..BINS) as f64 + 0.5);
        let mut best: Option<(f64, Genome)> = None;
        for _ in 0..MAX_DRAWS {
            let genome = self.genomes.draw_leaning(rng);
            let distance = (self.share(&genome) - wanted).abs();
            if best.as_ref().is_none_or(|(nearest, _)| distance < *nearest) {
                best = Some((distance, genome));
            }
            if distance <= 0.5 * width {
                break;
            }
        }
        best.map_or_else(|| self.space.full_genome(), |(_, genome)| genome)
    }

    fn near_front(&self, rng: &mut ChaCha8Rng) -> Genome {
        let at = rng.random_range(0..self.front.len());
        let members = self.front.values().nth(at);
        let members = members.map_or(&[][..], |members| members);
        if members.is_empty() {
            return self.space.full_genome();
        }
        let mut genome = members[rng.random_range(0..members.len())].clone();
        if rng.random_range(0..MOVED) > 0 {
            return genome;
        }
        let counts = self.space.cardinalities();
        let odds = (MOVED_GENES / genome.len() as f64).min(1.0);
        for (gene, count) in genome.iter_mut().zip(counts) {
            if rng.random::<f64>() < odds {
                *gene = match rng.random::<bool>() {
                    true => (*gene + 1).min(count - 1),
                    false => gene.saturating_sub(1),
                };
            }
        }
        genome
    }
}

#[cfg(test)]
mod tests {
    use lathe_arch::{ModelConfig, SpaceSpec};

    use super::*;

    fn sampler(sampling: Sampling, front: &[Genome]) -> Sampler {
        let model = ModelConfig::smollm2_135m();
        let space = SearchSpace::new(&model, "m", &SpaceSpec::standard(&model)).unwrap();
        let front = front.iter().map(|genome| space.decode(genome).unwrap());
        let options = SamplerOptions {
            sampling,
            networks: 2,
            least_share: 0.5,
            seed: 7,
            front: front.collect(),
        };
        let cost: Cost = Box::new(|genome| {
            let genes = genome.iter().enumerate();
            let costs = genes.map(|(at, gene)| [3.0, 1.0][at % 2] * *gene as f64);
            1.0 + costs.sum::<f64>()
        });
        Sampler::new(&space, cost, options).unwrap()
    }

    fn genomes(sampler: &Sampler, step: usize) -> Vec<Genome> {
        let networks = sampler.networks(step).unwrap();
        let encoded = networks.iter().map(|network| sampler.space.encode(network));
        encoded.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_sandwich_has_both_ends_and_every_choice_is_as_likely() {
        const STEPS: usize = 2000;
        let sampler = sampler(Sampling::Sandwich, &[]);
        let counts = sampler.space.cardinalities();
        let mut seen: Vec<Vec<usize>> = counts.iter().map(|count| vec![0; *count]).collect();
        let mut equal_pairs = 0;
        for step in 0..STEPS {
            let drawn = genomes(&sampler, step);
            assert_eq!(drawn.len(), 4);
            assert_eq!(drawn[0], sampler.space.full_genome());
            assert_eq!(drawn[1], sampler.smallest);
            for genome in &drawn[2..] {
                for (seen, gene) in seen.iter_mut().zip(genome) {
                    seen[*gene] += 1;
                }
                equal_pairs += usize::from(genome[0] == genome[2]);
            }
        }
        let draws = (2 * STEPS) as f64;
        // Chi-squared of each gene; one in a thousand of 8 degrees of freedom lies above 26.1, and of
        // 60 genes one in 100 tests of this would find one above 33.
        for counts in &seen {
            let expected = draws / counts.len() as f64;
            let squares = counts.iter().map(|n| (*n as f64 - expected).powi(2));
            let chi_squared = squares.sum::<f64>() / expected;
            assert!(chi_squared < 33.0, "{counts:?}: {chi_squared}");
        }
        // Genes do not depend on each other: two of four choices agree in a quarter of the draws.
        let share = f64::from(equal_pairs as u32) / draws;
        assert!((share - 0.25).abs() < 0.03, "{share}");
        assert!((sampler.share(&sampler.smallest) - 0.5).abs() < 0.05);
    }

    #[test]
    fn a_step_draws_the_same_whatever_was_drawn_before() {
        for sampling in [Sampling::Random, Sampling::Stratified] {
            let sampler = sampler(sampling, &[]);
            let fifth = genomes(&sampler, 5);
            assert_ne!(genomes(&sampler, 6), fifth);
            assert_eq!(genomes(&sampler, 5), fifth);
        }
    }

    #[test]
    fn strata_are_drawn_alike() {
        let sampler = sampler(Sampling::Stratified, &[]);
        let mut counts = [0; BINS];
        for step in 0..500 {
            for genome in genomes(&sampler, step) {
                counts[sampler.bin(sampler.share(&genome)).unwrap()] += 1;
            }
        }
        assert!(counts.iter().all(|n| (60..150).contains(n)), "{counts:?}");
    }

    #[test]
    fn networks_stay_near_the_front() {
        let full = vec![[3, 8]; 30].concat();
        let narrow = vec![[3, 4]; 30].concat();
        let tiny = vec![[0, 1]; 30].concat();
        let sampler = sampler(Sampling::Front, &[full.clone(), narrow.clone(), tiny]);
        let mut from_full = 0;
        for step in 0..300 {
            for genome in genomes(&sampler, step) {
                let distance = |from: &[usize]| -> usize {
                    let pairs = genome.iter().zip(from);
                    pairs.map(|(a, b)| a.abs_diff(*b)).sum()
                };
                let (a, b) = (distance(&full), distance(&narrow));
                assert!(a.min(b) < 12, "{genome:?}");
                from_full += usize::from(a < b);
            }
        }
        assert!((200..400).contains(&from_full), "{from_full}");
        assert_eq!(sampler.smallest, narrow);
    }
}
