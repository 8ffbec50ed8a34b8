//! The leak groups of all processes of a run, each told once.

use crate::render::stack;
use crate::render::units::bytes;
use crate::report::model::{Frame, Group, Report, RunReport};
use crate::report::words::{grouped, objects};

/// A leak group, summed over the processes that have it.
#[derive(Debug, Clone)]
pub struct Finding<'a> {
    /// Its sums; what cannot be summed (stack, format, what holds it) is the first process's.
    pub group: Group,
    /// Which processes, in the order of the run.
    pub processes: Vec<&'a Report>,
}

/// Of every group that the verdict counts, the heaviest first: by bytes pinned, then by number.
pub fn findings(run: &RunReport) -> Vec<Finding<'_>> {
    let mut found: Vec<Finding> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for process in &run.processes {
        for group in process.groups.iter().filter(|group| group.leak) {
            let place = *places.entry(group.id.as_str()).or_insert(found.len());
            match found.get_mut(place) {
                Some(finding) => finding.add(process, group),
                None => found.push(Finding { group: group.clone(), processes: vec![process] }),
            }
        }
    }
    found.sort_by(|a, b| {
        let weight = |f: &Finding| (f.group.pinned_bytes, f.group.count);
        weight(b).cmp(&weight(a)).then_with(|| a.group.id.cmp(&b.group.id))
    });
    found
}

impl<'a> Finding<'a> {
    fn add(&mut self, process: &'a Report, other: &Group) {
        self.processes.push(process);
        let group = &mut self.group;
        for (sum, more) in [
            (&mut group.outermost, other.outermost),
            (&mut group.count, other.count),
            (&mut group.bytes, other.bytes),
            (&mut group.pinned_bytes, other.pinned_bytes),
            (&mut group.siblings_allocated, other.siblings_allocated),
        ] {
            *sum = sum.saturating_add(more);
        }
        group.exclusive &= other.exclusive;
        group.age_min_s = group.age_min_s.min(other.age_min_s);
        group.age_max_s = group.age_max_s.max(other.age_max_s);
        for site in &other.freed_elsewhere {
            match group.freed_elsewhere.iter_mut().find(|known| known.stack == site.stack) {
                Some(known) => known.count = known.count.saturating_add(site.count),
                None => group.freed_elsewhere.push(site.clone()),
            }
        }
        for holder in &other.refs {
            match group.refs.iter_mut().find(|known| known.class == holder.class && known.stack == holder.stack) {
                Some(known) => known.count = known.count.saturating_add(holder.count),
                None => group.refs.push(holder.clone()),
            }
        }
        // Rates over different times have no sum, and pts of different streams no order.
        (group.rate_per_minute, group.rate_per_1000_frames) = (0.0, 0.0);
        (group.pts_first, group.pts_last) = (None, None);
    }

    /// `7 AVFrame definitely lost`.
    pub fn title(&self) -> String {
        format!("{} {}", objects(self.group.count, &self.group.object), self.group.class.phrase())
    }

    /// Who asked for the objects: the innermost function outside FFmpeg, or FFmpeg's for want of one.
    pub fn blame(&self) -> Option<&Frame> {
        stack::own_frame(&self.group.stack).or(self.group.stack.iter().rfind(|frame| frame.libav))
    }

    /// One sentence: who, what, how much, where the siblings die, in how many processes.
    pub fn sentence(&self) -> String {
        let group = &self.group;
        let who = self.blame().map_or_else(|| "somebody".to_string(), stack::name);
        let mut text = format!("allocated by {who}");
        if let Some(place) = self.blame().and_then(stack::place) {
            text.push_str(&format!(" at {place}"));
        }
        match group.pinned_bytes {
            0 => text.push_str(&format!(", {}", bytes(group.bytes))),
            pinned => text.push_str(&format!(", {} pinned", bytes(pinned))),
        }
        let freed = group.freed_elsewhere.iter().find_map(|site| {
            let place = stack::place(stack::own_frame(&site.stack)?)?;
            Some(format!(
                "; {} of {} like it were freed at {place}",
                grouped(site.count),
                grouped(group.siblings_allocated)
            ))
        });
        text.push_str(&freed.unwrap_or_default());
        if self.processes.len() > 1 {
            text.push_str(&format!("; in {}", processes(self.processes.len())));
        }
        text
    }
}

/// `1 process`, `1,000 processes`.
pub(super) fn processes(number: usize) -> String {
    format!("{} process{}", grouped(number as u64), if number == 1 { "" } else { "es" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn a_group_of_many_processes_is_told_once() {
        let mut run = sample::run();
        let leaking = sample::leaking();
        run.processes = vec![sample::clean(), leaking.clone(), leaking.clone(), leaking.clone()];
        let found = findings(&run);
        let counted: Vec<&Group> = leaking.groups.iter().filter(|group| group.leak).collect();
        assert_eq!(found.len(), counted.len());
        for finding in &found {
            let one = counted.iter().find(|group| group.id == finding.group.id).unwrap();
            assert_eq!(finding.processes.len(), 3);
            assert_eq!(finding.group.count, 3 * one.count);
            assert_eq!(finding.group.pinned_bytes, 3 * one.pinned_bytes);
            assert_eq!(finding.group.freed_elsewhere.len(), one.freed_elsewhere.len());
            let refs = |group: &Group| group.refs.iter().map(|holder| holder.count).sum::<u64>();
            assert_eq!(refs(&finding.group), 3 * refs(one));
            assert!(finding.sentence().ends_with("; in 3 processes"), "{}", finding.sentence());
        }
        let weights: Vec<u64> = found.iter().map(|finding| finding.group.pinned_bytes).collect();
        assert!(weights.is_sorted_by(|a, b| a >= b), "{weights:?}");
        assert!(findings(&RunReport { processes: vec![sample::clean()], ..run }).is_empty());
    }

    #[test]
    fn the_sentence_says_who_and_where_the_others_die() {
        let mut run = sample::run();
        run.processes = vec![sample::leaking()];
        let found = findings(&run);
        let text = found[0].sentence();
        assert!(
            text.starts_with("allocated by ") && text.contains(" pinned; ") && text.contains("were freed at"),
            "{text}"
        );
        assert!(!text.contains('\n') && !text.contains("process"), "{text}");
    }
}
