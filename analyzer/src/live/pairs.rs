//! Hash maps in a checkpoint: their pairs, in no order.

use std::hash::Hash;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// For `#[serde(with)]`.
pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
    map: &HashMap<K, V, FxBuildHasher>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_seq(map.iter())
}

/// For `#[serde(with)]`.
pub fn deserialize<'de, K, V, D>(from: D) -> Result<HashMap<K, V, FxBuildHasher>, D::Error>
where
    K: Deserialize<'de> + Eq + Hash,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Vec::<(K, V)>::deserialize(from)?.into_iter().collect())
}
