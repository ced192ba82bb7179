//! What a study promises: nothing is lost, and a resumed run is the same run.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use lathe_search::{
    BayesianOptions, BayesianSearch, Evaluation, EvolutionOptions, Fidelity, Genome,
    HalvingOptions, LocalSearch, NsgaII, NsgaIII, NsgaIIIOptions, NsgaOptions, Problem, Progress,
    RandomSearch, RegularizedEvolution, SearchError, Searcher, Space, StratifiedOptions,
    StratifiedRandomSearch, Study, StudyHeader, SuccessiveHalving, Trial, hypervolume, run,
};

/// Every method but the additive, which is told what to expect.
const METHODS: [&str; 7] = [
    "random",
    "stratified",
    "nsga2",
    "nsga3",
    "local-search",
    "evolution",
    "ehvi",
];

/// A multiple-choice knapsack: time against loss, with one evaluation that may fail.
struct Knapsack {
    space: Space,
    fails_at: Option<usize>,
    takes: Duration,
    made: usize,
}

#[derive(Debug)]
struct PowerCut;

impl fmt::Display for PowerCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "power cut")
    }
}

impl std::error::Error for PowerCut {}

impl Knapsack {
    fn new(fails_at: Option<usize>) -> Self {
        Self {
            space: Space::new(vec![5; 20]).unwrap(),
            fails_at,
            takes: Duration::ZERO,
            made: 0,
        }
    }
}

fn time(genome: &[usize]) -> f64 {
    let each = genome.iter().enumerate();
    each.map(|(i, g)| (1 + i % 3) as f64 * *g as f64).sum()
}

impl Problem for Knapsack {
    type Error = PowerCut;

    fn space(&self) -> &Space {
        &self.space
    }

    fn objective_names(&self) -> Vec<&str> {
        vec!["time", "loss"]
    }

    fn fingerprint(&self) -> String {
        "knapsack".to_owned()
    }

    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, PowerCut> {
        let genome = &trial.genome;
        if self.fails_at == Some(self.made) {
            return Err(PowerCut);
        }
        self.made += 1;
        sleep(self.takes);
        let loss = genome
            .iter()
            .enumerate()
            .map(|(i, g)| (1 + i % 7) as f64 / (1.0 + *g as f64));
        Ok(vec![time(genome), loss.sum()])
    }
}

fn searcher(method: &str, seed: u64) -> Box<dyn Searcher> {
    let space = Space::new(vec![5; 20]).unwrap();
    let first: Vec<Genome> = (0..5).map(|level| vec![level; 20]).collect();
    match method {
        "random" => Box::new(RandomSearch::new(&space, &first, seed).unwrap()),
        "stratified" => {
            let options = StratifiedOptions {
                first,
                ..StratifiedOptions::default()
            };
            let cost = Box::new(time);
            Box::new(StratifiedRandomSearch::new(&space, cost, options, seed).unwrap())
        }
        "local-search" => Box::new(LocalSearch::new(&space, &first, seed).unwrap()),
        "evolution" => {
            let options = EvolutionOptions {
                population: 24,
                sample: 5,
                first,
            };
            Box::new(RegularizedEvolution::new(&space, options, seed).unwrap())
        }
        "nsga2" => {
            let options = NsgaOptions {
                first,
                ..NsgaOptions::default()
            };
            Box::new(NsgaII::new(&space, options, seed).unwrap())
        }
        "nsga3" => {
            let options = NsgaIIIOptions {
                first,
                ..NsgaIIIOptions::default()
            };
            Box::new(NsgaIII::new(&space, 2, options, seed).unwrap())
        }
        "ehvi" => {
            let options = BayesianOptions {
                first,
                ..BayesianOptions::default()
            };
            Box::new(BayesianSearch::new(&space, None, options, seed).unwrap())
        }
        other => panic!("no method `{other}`"),
    }
}

/// Evaluations after which a method is judged: few where they are dear to choose.
fn budget(method: &str) -> usize {
    if method == "ehvi" { 100 } else { 300 }
}

fn whole_run(method: &str, seed: u64, budget: usize) -> Vec<Evaluation> {
    let mut problem = Knapsack::new(None);
    let mut searcher = searcher(method, seed);
    let mut study = Study::in_memory(&problem, &*searcher, seed).unwrap();
    run(&mut problem, &mut *searcher, &mut study, budget, go_on).unwrap();
    study.evaluations().unwrap()
}

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn an_interrupted_run_resumes_to_the_same_sequence() {
    for method in METHODS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.db");
        let mut problem = Knapsack::new(Some(37));
        let mut first = searcher(method, 3);
        let header = StudyHeader::of(&problem, &*first, 3);
        let mut study = Study::open_or_create(&path, &header, false).unwrap();
        let stopped = run(&mut problem, &mut *first, &mut study, 80, go_on);
        assert!(matches!(
            stopped,
            Err(SearchError::Evaluation { index: 37, .. })
        ));
        drop(study);

        let mut second = searcher(method, 3);
        let mut problem = Knapsack::new(None);
        let mut study = Study::open_or_create(&path, &header, true).unwrap();
        let mut replayed = 0;
        let count = |progress: Progress<'_>| {
            replayed += usize::from(progress.is_replayed);
            ControlFlow::Continue(())
        };
        run(&mut problem, &mut *second, &mut study, 80, count).unwrap();
        assert_eq!(replayed, 37);
        assert_eq!(study.evaluations().unwrap(), whole_run(method, 3, 80));
    }
}

#[test]
fn a_study_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    let header = StudyHeader::of(&Knapsack::new(None), &*searcher("random", 1), 1);
    let mut study = Study::open_or_create(&path, &header, false).unwrap();
    let evaluation = Trial::full(vec![0; 20]).with_objectives(vec![0.1 + 0.2, 1e-300]);
    study.keep(0, &evaluation, Duration::from_secs(1)).unwrap();
    drop(study);
    let held = Study::open(&path).unwrap().evaluations().unwrap();
    assert_eq!(held, [evaluation]);
    let unasked = Study::open_or_create(&path, &header, false).err().unwrap();
    assert!(unasked.to_string().contains("--resume"), "{unasked}");
    let other = StudyHeader { seed: 2, ..header };
    let other = Study::open_or_create(&path, &other, true).err().unwrap();
    assert!(other.to_string().contains("seed"), "{other}");
}

#[test]
fn files_that_are_not_studies_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    let message = Study::open(&path).err().unwrap().to_string();
    assert!(message.contains("no such file"), "{message}");
    std::fs::write(&path, vec![7u8; 5000]).unwrap();
    let message = Study::open(&path).err().unwrap().to_string();
    assert!(message.contains("study.db"), "{message}");
}

#[test]
fn not_a_number_stops_the_run_and_names_the_objective() {
    struct Broken(Space);
    impl Problem for Broken {
        type Error = PowerCut;
        fn space(&self) -> &Space {
            &self.0
        }
        fn objective_names(&self) -> Vec<&str> {
            vec!["time", "loss"]
        }
        fn evaluate(&mut self, _trial: &Trial) -> Result<Vec<f64>, PowerCut> {
            Ok(vec![1.0, f64::NAN])
        }
    }
    let mut problem = Broken(Space::new(vec![3]).unwrap());
    let mut searcher = RandomSearch::new(problem.space(), &[], 1).unwrap();
    let mut study = Study::in_memory(&problem, &searcher, 1).unwrap();
    let stopped = run(&mut problem, &mut searcher, &mut study, 5, go_on);
    assert!(stopped.err().unwrap().to_string().contains("loss"));
    assert_eq!(study.evaluation_count().unwrap(), 0);
}

#[test]
fn every_method_that_learns_beats_random_search_on_every_seed() {
    let volume = |method: &str, seed: u64| {
        let evaluations = whole_run(method, seed, budget(method));
        let points: Vec<&[f64]> = evaluations.iter().map(|e| &e.objectives[..]).collect();
        hypervolume(&points, &[160.0, 80.0])
    };
    for seed in 0..5 {
        let random = volume("random", seed);
        for method in &METHODS[2..] {
            assert!(volume(method, seed) > random, "{method}, seed {seed}");
        }
    }
}

#[test]
fn no_method_proposes_twice_and_every_value_is_reached() {
    for method in METHODS {
        let count = 2 * budget(method);
        let evaluations = whole_run(method, 5, count);
        let mut genomes: Vec<&Genome> = evaluations.iter().map(|e| &e.genome).collect();
        genomes.sort();
        genomes.dedup();
        assert_eq!(genomes.len(), count, "{method}");
        for gene in 0..20 {
            for value in 0..5 {
                let reached = genomes.iter().any(|genome| genome[gene] == value);
                assert!(reached, "{method}: gene {gene}, value {value}");
            }
        }
    }
}

#[test]
fn studies_of_one_problem_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let study = |name: &str, method: &str, seed: u64| {
        let mut problem = Knapsack::new(None);
        let mut searcher = searcher(method, seed);
        let header = StudyHeader::of(&problem, &*searcher, seed);
        let path = folder.path().join(name);
        let mut study = Study::open_or_create(&path, &header, false).unwrap();
        run(&mut problem, &mut *searcher, &mut study, 30, go_on).unwrap();
        study
    };
    // Both begin with the same five.
    let studies = [study("a.db", "random", 1), study("b.db", "nsga2", 2)];
    let path = folder.path().join("all.db");
    let merged = Study::merge(&studies, &path).unwrap();
    let evaluations = merged.evaluations().unwrap();
    assert_eq!(evaluations.len(), 55);
    assert_eq!(evaluations[..30], studies[0].evaluations().unwrap());
    let seeds: Vec<u64> = merged.records().unwrap().iter().map(|r| r.seed).collect();
    assert_eq!(seeds, [[1; 30].as_slice(), &[2; 25]].concat());
    let options = &merged.header().options;
    assert_eq!(options, "random 1, nsga2 2");
    let exists = Study::merge(&studies, &path).err().unwrap().to_string();
    assert!(exists.contains("exists"), "{exists}");
    let nothing = Study::merge(&[], &folder.path().join("none.db"))
        .err()
        .unwrap();
    assert!(nothing.to_string().contains("nothing"), "{nothing}");
}

/// Names the study's file for a child process that is going to be killed.
const CHILD: &str = "LATHE_TEST_STUDY";
/// How many trials are asked for at once there.
const BATCH: &str = "LATHE_TEST_BATCH";

fn search_to(path: &Path, batch: usize, takes: Duration) -> Vec<Evaluation> {
    let mut searcher = searcher("nsga2", 7);
    let mut problem = Knapsack::new(None);
    problem.takes = takes;
    let header = StudyHeader::of(&problem, &*searcher, 7).with_batch(batch);
    let mut study = Study::open_or_create(path, &header, true).unwrap();
    run(&mut problem, &mut *searcher, &mut study, 200, go_on).unwrap();
    study.evaluations().unwrap()
}

/// This test once more in a process of its own, which searches.
fn child(test: &str, path: &Path, batch: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(CHILD, path)
        .env(BATCH, batch.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// True in such a process, when the search is done.
fn has_searched_as_child() -> bool {
    let Some(path) = std::env::var_os(CHILD) else {
        return false;
    };
    let batch = std::env::var(BATCH).unwrap().parse().unwrap();
    search_to(Path::new(&path), batch, Duration::from_millis(5));
    true
}

#[test]
fn a_study_killed_twenty_times_ends_as_if_it_had_not_been() {
    if has_searched_as_child() {
        return;
    }
    let test = "a_study_killed_twenty_times_ends_as_if_it_had_not_been";
    let folder = tempfile::tempdir().unwrap();
    for batch in [1, 4] {
        let path = folder.path().join(format!("{batch}.db"));
        let mut held = 0;
        for kill in 0..20 {
            let mut child = child(test, &path, batch);
            sleep(Duration::from_millis(30 + kill * 37 % 50));
            child.kill().unwrap();
            child.wait().unwrap();
            if let Ok(study) = Study::open(&path) {
                let now = study.evaluation_count().unwrap();
                assert!(now >= held, "evaluations were lost");
                held = now;
            }
        }
        assert!(
            (1..200).contains(&held),
            "{held} evaluations before the end"
        );
        let whole = search_to(&folder.path().join("whole.db"), batch, Duration::ZERO);
        assert_eq!(search_to(&path, batch, Duration::ZERO), whole);
        std::fs::remove_file(folder.path().join("whole.db")).unwrap();
    }
}

#[test]
fn processes_that_share_a_study_end_as_one_alone_though_one_is_killed() {
    if has_searched_as_child() {
        return;
    }
    let test = "processes_that_share_a_study_end_as_one_alone_though_one_is_killed";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let mut children: Vec<Child> = (0..4).map(|_| child(test, &path, 8)).collect();
    sleep(Duration::from_millis(300));
    children[0].kill().unwrap();
    for mut child in children {
        child.wait().unwrap();
    }
    let shared = Study::open(&path).unwrap();
    let alone = search_to(&folder.path().join("alone.db"), 8, Duration::ZERO);
    assert_eq!(shared.evaluations().unwrap(), alone);
}

#[test]
fn a_batch_is_evaluated_at_once_and_what_succeeds_is_kept() {
    struct AtOnce(Knapsack, Vec<usize>);
    impl Problem for AtOnce {
        type Error = PowerCut;
        fn space(&self) -> &Space {
            self.0.space()
        }
        fn objective_names(&self) -> Vec<&str> {
            self.0.objective_names()
        }
        fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, PowerCut> {
            self.0.evaluate(trial)
        }
        fn parallelism(&self) -> usize {
            3
        }
        fn evaluate_batch(&mut self, trials: &[Trial]) -> Vec<Result<Vec<f64>, PowerCut>> {
            self.1.push(trials.len());
            trials.iter().map(|trial| self.evaluate(trial)).collect()
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    let mut problem = AtOnce(Knapsack::new(Some(10)), Vec::new());
    let mut nsga2 = searcher("nsga2", 1);
    let header = StudyHeader::of(&problem, &*nsga2, 1).with_batch(5);
    let mut study = Study::open_or_create(&path, &header, false).unwrap();
    let stopped = run(&mut problem, &mut *nsga2, &mut study, 20, go_on);
    assert!(matches!(
        stopped,
        Err(SearchError::Evaluation { index: 10, .. })
    ));
    assert_eq!(problem.1, [3, 2, 3, 2, 3]);
    assert_eq!(study.evaluation_count().unwrap(), 10);
}

#[test]
fn what_another_process_keeps_first_is_what_counts() {
    /// In whose every evaluation another study on the same file is faster, and finds one second more.
    struct Late {
        knapsack: Knapsack,
        first: Study,
    }
    impl Problem for Late {
        type Error = PowerCut;
        fn space(&self) -> &Space {
            self.knapsack.space()
        }
        fn objective_names(&self) -> Vec<&str> {
            self.knapsack.objective_names()
        }
        fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, PowerCut> {
            let number = self.knapsack.made;
            let own = self.knapsack.evaluate(trial)?;
            let other = trial.clone().with_objectives(vec![own[0] + 1.0, own[1]]);
            assert!(self.first.keep(number, &other, Duration::ZERO).unwrap());
            Ok(own)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.db");
    let knapsack = Knapsack::new(None);
    let mut random = searcher("random", 1);
    let header = StudyHeader::of(&knapsack, &*random, 1);
    let mut study = Study::open_or_create(&path, &header, false).unwrap();
    let first = Study::open_or_create(&path, &header, true).unwrap();
    let mut problem = Late { knapsack, first };
    let mut told = Vec::new();
    run(&mut problem, &mut *random, &mut study, 7, |progress| {
        told.push(progress.evaluation.clone());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(told, study.evaluations().unwrap());
    let of = |evaluation: &Evaluation| evaluation.objectives[0];
    let whole = whole_run("random", 1, 7);
    assert!(
        told.iter()
            .zip(&whole)
            .all(|(told, own)| of(told) == of(own) + 1.0)
    );
}

#[test]
fn a_callback_stops_the_run() {
    let mut problem = Knapsack::new(None);
    let mut random = searcher("random", 1);
    let mut study = Study::in_memory(&problem, &*random, 1).unwrap();
    let until_seven = |progress: Progress<'_>| match progress.index {
        6 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    run(&mut problem, &mut *random, &mut study, 80, until_seven).unwrap();
    assert_eq!(study.evaluation_count().unwrap(), 7);
}

/// The knapsack, whose loss is known roughly at a tenth and better at a third of the cost.
struct Staged(Knapsack);

impl Problem for Staged {
    type Error = PowerCut;

    fn space(&self) -> &Space {
        self.0.space()
    }

    fn objective_names(&self) -> Vec<&str> {
        self.0.objective_names()
    }

    fn low_fidelities(&self) -> &[f64] {
        &[0.1, 0.3]
    }

    fn evaluate(&mut self, trial: &Trial) -> Result<Vec<f64>, PowerCut> {
        let mut objectives = self.0.evaluate(trial)?;
        let error = match trial.fidelity {
            Fidelity::Low(0) => 4.0,
            Fidelity::Low(_) => 1.0,
            Fidelity::Full => 0.0,
        };
        let sum: usize = trial.genome.iter().enumerate().map(|(i, g)| i * g).sum();
        objectives[1] += error * (sum % 7) as f64 / 7.0;
        Ok(objectives)
    }
}

#[test]
fn stages_spend_the_budget_and_find_more_than_full_evaluations_alone() {
    let staged = |seed: u64| {
        let options = HalvingOptions {
            low_fidelities: 2,
            reduction: 3,
        };
        SuccessiveHalving::new(searcher("random", seed), options).unwrap()
    };
    let volume = |study: &Study| {
        let evaluations = study.evaluations().unwrap();
        let points: Vec<&[f64]> = evaluations.iter().map(|e| &e.objectives[..]).collect();
        hypervolume(&points, &[160.0, 80.0])
    };
    let mut wins = 0;
    for seed in 0..5 {
        let mut problem = Staged(Knapsack::new(None));
        let mut search = staged(seed);
        let mut study = Study::in_memory(&problem, &search, seed).unwrap();
        let mut spent = 0.0;
        let count = |progress: Progress<'_>| {
            spent = progress.spent;
            ControlFlow::Continue(())
        };
        run(&mut problem, &mut search, &mut study, 100, count).unwrap();
        assert!((100.0..101.0).contains(&spent), "{spent}");
        let mut problem = Knapsack::new(None);
        let mut random = searcher("random", seed);
        let mut alone = Study::in_memory(&problem, &*random, seed).unwrap();
        run(&mut problem, &mut *random, &mut alone, 100, go_on).unwrap();
        wins += u32::from(volume(&study) > volume(&alone));
    }
    assert_eq!(wins, 5);
}
