//! Golden files of the tests. `AVLEAK_UPDATE_GOLDEN=1 cargo test` writes them anew; look at the difference.

use std::path::PathBuf;

/// Compares with `testdata/golden/NAME`.
pub(crate) fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(name);
    if std::env::var_os("AVLEAK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs (AVLEAK_UPDATE_GOLDEN=1 updates it); now:\n{actual}");
}
