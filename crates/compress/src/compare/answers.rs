//! What networks know: questions with choices, which all of them are asked.

use std::collections::HashMap;

use lathe_arch::SubnetConfig;
use lathe_supernet::{Accuracy, Question};
use serde::{Deserialize, Serialize};

use super::exam::Exam;
use super::{Compared, Comparison, Contender, Method};
use crate::Progress;
use crate::artefact::cached;
use crate::kept::digest;

/// What is asked.
pub struct Quiz {
    /// What it is called in tables.
    pub name: String,
    /// All that is asked.
    pub questions: Vec<Question>,
}

/// One network's answers.
#[derive(Serialize, Deserialize)]
struct Answered {
    subnet: SubnetConfig,
    accuracy: Accuracy,
}

impl Quiz {
    /// What answers to it rest on.
    pub(super) fn key(&self) -> String {
        let text = serde_json::to_string(&self.questions).unwrap_or_default();
        format!("{} {:016x}", self.questions.len(), digest(&text))
    }
}

impl Comparison<'_> {
    /// Has the full model and all networks answer, those of them that have not yet.
    pub(super) fn answer(
        &self,
        compared: &mut Compared,
        exam: &Exam,
        key: &str,
        progress: Progress<'_>,
    ) -> anyhow::Result<()> {
        let Some(quiz) = &self.quiz else {
            return Ok(());
        };
        let key = format!("{} {key}", quiz.key());
        let mut groups: Vec<(Method, bool)> = Vec::new();
        for group in compared.contenders.iter().map(Contender::made_by) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let total = groups.len() + 1;
        progress("answering questions", 0, total);
        let path = self.folder.join("answers-full.json");
        compared.accuracy = cached(&path, &key, || {
            exam.accuracy(&self.prepared.supernet.teacher())
        })?;
        for (done, group) in groups.into_iter().enumerate() {
            progress("answering questions", done + 1, total);
            self.answer_of(compared, group, exam, &key)?;
        }
        Ok(())
    }

    /// Has the networks of one method answer. They are cut from one super-network, and one that is the
    /// method's at several levels is asked once.
    fn answer_of(
        &self,
        compared: &mut Compared,
        group: (Method, bool),
        exam: &Exam,
        key: &str,
    ) -> anyhow::Result<()> {
        let is_asked = |c: &Contender| c.made_by() == group && c.accuracy.is_none();
        let mut asked: Vec<&Contender> = Vec::new();
        for contender in compared.contenders.iter().filter(|c| is_asked(c)) {
            if asked.iter().all(|other| other.subnet != contender.subnet) {
                asked.push(contender);
            }
        }
        let Some(&first) = asked.first() else {
            return Ok(());
        };
        let refitted = if group.1 { "-refitted" } else { "" };
        let name = format!("answers-{}{refitted}.json", group.0.slug());
        let subnets: Vec<&SubnetConfig> = asked.iter().map(|c| &c.subnet).collect();
        let key = format!("{key} {:016x}", digest(&serde_json::to_string(&subnets)?));
        let answered: Vec<Answered> = cached(&self.folder.join(name), &key, || {
            let own = self.supernet_of(first)?;
            let supernet = own.as_ref().unwrap_or(&self.prepared.supernet);
            let mut answered = Vec::new();
            for contender in &asked {
                let subnet = contender.subnet.clone();
                if let Some(accuracy) = exam.accuracy(&supernet.cut(&subnet)?)? {
                    answered.push(Answered { subnet, accuracy });
                }
            }
            Ok(answered)
        })?;
        let by_subnet: HashMap<SubnetConfig, Accuracy> = answered
            .into_iter()
            .map(|a| (a.subnet, a.accuracy))
            .collect();
        for contender in compared.contenders.iter_mut().filter(|c| is_asked(c)) {
            contender.accuracy = by_subnet.get(&contender.subnet).copied();
        }
        Ok(())
    }
}
