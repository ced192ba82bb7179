//! What networks know: questions with choices, which all of them are asked.

use lathe_arch::SubnetConfig;
use lathe_supernet::{Accuracy, Question};

use super::exam::Exam;
use super::{Compared, Comparison, Contender, Method, slug};
use crate::Progress;
use crate::artefact::cached;
use crate::kept::digest;

/// What is asked.
pub struct Quiz {
    /// What it is called in tables.
    pub name: String,
    /// All that is asked.
    pub questions: Vec<Question>,
    /// Whether choices are scored without their contexts as well.
    pub mutual_info: bool,
}

impl Quiz {
    /// What answers to it rest on.
    pub(super) fn key(&self) -> String {
        let text = format!("{:?}", self.questions);
        let alone = if self.mutual_info {
            " and choices alone"
        } else {
            ""
        };
        format!("{} {:016x}{alone}", self.questions.len(), digest(&text))
    }
}

/// Networks that are cut from one super-network.
struct Group {
    made_by: (Method, bool),
    subnets: Vec<SubnetConfig>,
}

impl Group {
    /// All networks that have not answered yet. One that is its method's at several levels is in its group
    /// once.
    fn of(contenders: &[Contender]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for contender in contenders.iter().filter(|c| c.accuracy.is_none()) {
            let (made_by, subnet) = (contender.made_by(), &contender.subnet);
            match groups.iter_mut().find(|group| group.made_by == made_by) {
                Some(group) if group.subnets.contains(subnet) => {}
                Some(group) => group.subnets.push(subnet.clone()),
                None => groups.push(Self {
                    made_by,
                    subnets: vec![subnet.clone()],
                }),
            }
        }
        groups
    }
}

impl Comparison<'_> {
    /// Has the full model and all networks answer, those of them that have not yet.
    pub(super) fn answer(
        &self,
        compared: &mut Compared,
        exam: &Exam,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        let Some(quiz) = &self.quiz else {
            return Ok(());
        };
        let groups = Group::of(&compared.contenders);
        let total = 1 + groups.iter().map(|g| g.subnets.len()).sum::<usize>();
        let key = format!("{} {}", quiz.key(), self.score_key(exam));
        let path = self.folder.join("answers-full.json");
        compared.accuracy = cached(&path, &key, || {
            progress("answering questions", 0, total);
            exam.accuracy(&self.prepared.supernet.teacher())
        })?;
        let mut done = 1;
        for group in groups {
            let key = format!("{key} {:016x}", digest(&format!("{:?}", group.subnets)));
            let name = format!("answers-{}.json", slug(group.made_by));
            let path = self.folder.join(name);
            let answered: Vec<Option<Accuracy>> = cached(&path, &key, || {
                let own = self.supernet_of(group.made_by)?;
                let supernet = own.as_ref().unwrap_or(&self.prepared.supernet);
                let answer = |(at, subnet)| {
                    progress("answering questions", done + at, total);
                    exam.accuracy(&supernet.cut(subnet)?)
                };
                group.subnets.iter().enumerate().map(answer).collect()
            })?;
            done += group.subnets.len();
            let of_group = compared.contenders.iter_mut();
            for contender in of_group.filter(|c| c.made_by() == group.made_by) {
                let at = group.subnets.iter().position(|s| *s == contender.subnet);
                contender.accuracy = contender.accuracy.or(at.and_then(|at| *answered.get(at)?));
            }
        }
        Ok(())
    }
}
