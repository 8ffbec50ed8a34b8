//! Where the objects of an allocation stack die, how many, and how old: the report's "siblings are freed at".

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Lifetimes kept of one pair of stacks: a fair sample, enough for a median.
const SAMPLE: usize = 255;

/// What is known of one pair (allocation stack, free stack).
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Objects that died there.
    pub count: u64,
    sample: Vec<u64>,
}

impl Site {
    /// Adds the lifetime of one more object, in stamp units.
    fn add(&mut self, lifetime: u64, random: &mut u64) {
        self.count += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(lifetime);
            return;
        }
        // Vitter's algorithm R with a xorshift generator.
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let at = *random % self.count;
        if let Some(place) = self.sample.get_mut(at as usize) {
            *place = lifetime;
        }
    }

    /// Takes over what another site of the same meaning knows.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sample.extend(&other.sample);
    }

    /// The median lifetime in stamp units; exact up to 255 objects, by a fair sample above.
    pub fn median(&self) -> u64 {
        let mut sorted = self.sample.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }
}

/// All pairs.
#[derive(Debug)]
pub struct FreeSites {
    pairs: HashMap<(u32, u32), Site, FxBuildHasher>,
    made: HashMap<u32, u64, FxBuildHasher>,
    random: u64,
}

impl Default for FreeSites {
    fn default() -> Self {
        Self { pairs: HashMap::default(), made: HashMap::default(), random: 0x9E37_79B9_7F4A_7C15 }
    }
}

impl FreeSites {
    /// An object was made on this stack.
    pub fn made(&mut self, stack: u32) {
        *self.made.entry(stack).or_default() += 1;
    }

    /// An object of `made` died on the stack `freed` after `lifetime` stamp units.
    pub fn died(&mut self, made: u32, freed: u32, lifetime: u64) {
        self.pairs.entry((made, freed)).or_default().add(lifetime, &mut self.random);
    }

    /// `count` more were made, of which nothing else is known.
    pub fn made_more(&mut self, stack: u32, count: u64) {
        *self.made.entry(stack).or_default() += count;
    }

    /// `count` more died, at ages like those of the others of their pair.
    pub fn died_more(&mut self, made: u32, freed: u32, count: u64) {
        self.pairs.entry((made, freed)).or_default().count += count;
    }

    /// How many objects were made on this stack.
    pub fn made_on(&self, stack: u32) -> u64 {
        self.made.get(&stack).copied().unwrap_or(0)
    }

    /// Every stack on which objects were made, and how many.
    pub fn all_made(&self) -> impl Iterator<Item = (u32, u64)> {
        self.made.iter().map(|(&stack, &count)| (stack, count))
    }

    /// Every pair of stacks: made, freed.
    pub fn all(&self) -> impl Iterator<Item = (u32, u32, &Site)> {
        self.pairs.iter().map(|(&(made, freed), site)| (made, freed, site))
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
}
