//! Where the objects of an allocation stack die, how many, and how old: the report's "siblings are freed at".

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};
/// Lifetimes kept of one pair of stacks: a fair sample, enough for a median.
const SAMPLE: usize = 255;

/// Pairs that are told apart; what dies in more is counted as made only.
const MOST_PAIRS: usize = 1 << 16;

/// What is known of one pair (allocation stack, free stack).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Site {
    /// Objects that died there.
    pub count: u64,
    /// Those of them whose lifetimes are known.
    timed: u64,
    sample: Vec<u64>,
    /// Of the timed ones, the next that goes into the full sample.
    next: u64,
    /// Li's W: the largest of as many random numbers as the sample has places, had each object one.
    weight: f64,
}

impl Site {
    /// Adds the lifetime of one more object, in stamp units.
    #[inline]
    fn add(&mut self, lifetime: u64, random: &mut Random) {
        self.count = self.count.saturating_add(1);
        self.timed += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(lifetime);
            if self.sample.len() == SAMPLE {
                self.weight = 1.0;
                self.skip(random);
            }
        } else if self.timed >= self.next {
            let at = (random.next() * SAMPLE as f64) as usize;
            self.sample[at.min(SAMPLE - 1)] = lifetime;
            self.skip(random);
        }
    }

    /// Li's algorithm L ("Reservoir-sampling algorithms of time complexity O(n(1 + log(N/n)))", 1994): how many objects pass by before the
    /// next goes into the sample. An object costs a comparison, where algorithm R draws and divides for each.
    #[cold]
    fn skip(&mut self, random: &mut Random) {
        self.weight *= (random.next().ln() / SAMPLE as f64).exp();
        let passed = (random.next().ln() / (-self.weight).ln_1p()).floor();
        self.next = self.timed.saturating_add(passed as u64).saturating_add(1);
    }

    /// Takes over what another site of the same meaning knows.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.timed = self.timed.saturating_add(other.timed);
        self.sample.extend(&other.sample);
    }

    /// The median lifetime in stamp units; exact up to 255 objects, by a fair sample above. Those of which only a sum came are taken
    /// to be as old as the others.
    pub fn median(&self) -> u64 {
        let mut sorted = self.sample.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

/// A xorshift generator.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Random(u64);

impl Random {
    /// Between 0 and 1, neither included.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }
}

/// What one allocation stack made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Made {
    stack: u32,
    count: u64,
    /// Free stack and place in [`FreeSites::sites`] of the last death; most objects of one stack die on one.
    last: Option<(u32, u32)>,
}

/// All pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FreeSites {
    /// By allocation stack, the place in `made`, plus 1. Stack ids are dense and below `avleak_wire::layout::MAX_NODES`.
    place_of: Vec<u32>,
    made: Vec<Made>,
    sites: Vec<(u32, u32, Site)>,
    /// The place in `sites` of each pair.
    #[serde(with = "super::pairs")]
    pairs: HashMap<(u32, u32), u32, FxBuildHasher>,
    random: Random,
}

impl Default for FreeSites {
    fn default() -> Self {
        Self {
            place_of: Vec::new(),
            made: Vec::new(),
            sites: Vec::new(),
            pairs: HashMap::default(),
            random: Random(0x9E37_79B9_7F4A_7C15),
        }
    }
}

impl FreeSites {
    /// An object was made on this stack.
    #[inline]
    pub fn made(&mut self, stack: u32) {
        self.of(stack).count += 1;
    }

    /// An object of `made` died on the stack `freed` after `lifetime` stamp units.
    #[inline]
    pub fn died(&mut self, made: u32, freed: u32, lifetime: u64) {
        if let Some(at) = self.site(made, freed) {
            self.sites[at].2.add(lifetime, &mut self.random);
        }
    }

    /// `count` more were made, of which nothing else is known.
    pub fn made_more(&mut self, stack: u32, count: u64) {
        let of = self.of(stack);
        of.count = of.count.saturating_add(count);
    }

    /// `count` more died, at ages like those of the others of their pair.
    pub fn died_more(&mut self, made: u32, freed: u32, count: u64) {
        if let Some(at) = self.site(made, freed) {
            let site = &mut self.sites[at].2;
            site.count = site.count.saturating_add(count);
        }
    }

    #[inline]
    fn of(&mut self, stack: u32) -> &mut Made {
        // What is out of range no producer writes: all of it shares the place of "no stack".
        let stack = if stack < avleak_wire::layout::MAX_NODES { stack } else { 0 };
        match self.place_of.get(stack as usize) {
            Some(&place) if place != 0 => &mut self.made[place as usize - 1],
            _ => self.meet(stack),
        }
    }

    #[cold]
    fn meet(&mut self, stack: u32) -> &mut Made {
        if self.place_of.len() <= stack as usize {
            self.place_of.resize(stack as usize + 1, 0);
        }
        self.made.push(Made { stack, ..Made::default() });
        let place = self.made.len();
        self.place_of[stack as usize] = place as u32;
        &mut self.made[place - 1]
    }

    #[inline]
    fn site(&mut self, made: u32, freed: u32) -> Option<usize> {
        match self.of(made).last {
            Some((last, at)) if last == freed => Some(at as usize),
            _ => self.site_of_pair(made, freed),
        }
    }

    fn site_of_pair(&mut self, made: u32, freed: u32) -> Option<usize> {
        let stack = self.of(made).stack;
        if self.sites.len() >= MOST_PAIRS && !self.pairs.contains_key(&(stack, freed)) {
            return None;
        }
        let at = *self.pairs.entry((stack, freed)).or_insert_with(|| {
            self.sites.push((stack, freed, Site::default()));
            self.sites.len() as u32 - 1
        });
        self.of(made).last = Some((freed, at));
        Some(at as usize)
    }

    /// How many objects were made on this stack.
    pub fn made_on(&self, stack: u32) -> u64 {
        let place = self.place_of.get(stack as usize).copied().unwrap_or(0);
        place.checked_sub(1).map_or(0, |place| self.made[place as usize].count)
    }

    /// Every stack on which objects were made, and how many.
    pub fn all_made(&self) -> impl Iterator<Item = (u32, u64)> {
        self.made.iter().map(|made| (made.stack, made.count)).filter(|&(_, count)| count > 0)
    }

    /// Every pair of stacks on which an object was made and died: made, freed. (A sum that is still 0 makes a place, too.)
    pub fn all(&self) -> impl Iterator<Item = (u32, u32, &Site)> {
        self.sites.iter().filter(|(_, _, site)| site.count > 0).map(|(made, freed, site)| (*made, *freed, site))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_exact_for_few_and_close_for_many() {
        let mut sites = FreeSites::default();
        for lifetime in 1..=101 {
            sites.died(1, 2, lifetime);
        }
        for lifetime in 0..100_000 {
            sites.died(1, 3, lifetime);
        }
        let find = |freed| sites.all().find(|pair| pair.1 == freed).map(|pair| pair.2.clone()).unwrap_or_default();
        assert_eq!((find(2).count, find(2).median()), (101, 51));
        assert_eq!(find(3).count, 100_000);
        assert!((35_000..65_000).contains(&find(3).median()), "{}", find(3).median());
    }

    #[test]
    fn the_sample_is_fair_wherever_the_old_ones_stood() {
        // Each hundredth of the deaths has its share of the 255 places: summed over many sites, about 255 × 200 / 100.
        let mut sites = FreeSites::default();
        for made in 1..=200 {
            for lifetime in 0..10_000 {
                sites.died(made, 1, lifetime);
            }
        }
        let mut shares = [0u32; 100];
        for (_, _, site) in sites.all() {
            assert_eq!(site.sample.len(), SAMPLE);
            site.sample.iter().for_each(|lifetime| shares[(lifetime / 100) as usize] += 1);
        }
        // Binomial: mean 510, standard deviation 22.
        assert!(shares.iter().all(|share| (400..=620).contains(share)), "{shares:?}");
    }

    #[test]
    fn sums_count_and_leave_the_median_alone() {
        let mut sites = FreeSites::default();
        sites.made(7);
        for lifetime in [1000, 2000, 3000] {
            sites.died(7, 9, lifetime);
        }
        sites.made_more(7, 2);
        sites.died_more(7, 9, 2);
        let site = sites.all().next().map(|(made, freed, site)| (made, freed, site.count, site.median()));
        assert_eq!((site, sites.made_on(7)), (Some((7, 9, 5, 2000)), 3));
        sites.died_more(7, 9, u64::MAX);
        assert_eq!(sites.all().next().map(|pair| (pair.2.count, pair.2.median())), Some((u64::MAX, 2000)));
    }

    #[test]
    fn a_stack_with_many_free_stacks_keeps_them_apart() {
        let mut sites = FreeSites::default();
        for round in 0..3u64 {
            for freed in 0..100 {
                sites.died(5, freed, round);
                sites.died(u32::MAX, freed, round);
            }
        }
        assert_eq!(sites.all().count(), 200);
        assert!(sites.all().all(|(_, _, site)| site.count == 3 && site.median() == 1));
    }

    #[test]
    fn a_pair_without_a_death_is_none() {
        let mut sites = FreeSites::default();
        sites.died_more(1, 2, 0);
        assert_eq!(sites.all().count(), 0);
        sites.died_more(1, 2, 3);
        assert_eq!(sites.all().map(|(made, freed, site)| (made, freed, site.count)).collect::<Vec<_>>(), [(1, 2, 3)]);
    }
}
