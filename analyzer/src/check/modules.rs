//! Which of the target's modules a report speaks of.

use std::collections::HashSet;
use std::fmt::Write;

use crate::report::model::{self, Frame, Group};
use crate::symbols::Module;

/// Those whose code stands in a stack of these groups, by address. One that was loaded twice is named once.
pub fn in_stacks<'a>(groups: &[Group], modules: impl Iterator<Item = &'a Module>) -> Vec<model::Module> {
    let names: HashSet<&str> = groups.iter().flat_map(frames).filter_map(|frame| frame.module.as_deref()).collect();
    let mut found: Vec<model::Module> = modules
        .filter_map(|module| {
            let name = module.name().filter(|name| names.contains(name.as_str()))?;
            let path = module.clean_path().to_string_lossy().into_owned();
            // Valgrind and LSan name the file that a link leads to. Where the target's root is another, there may be no such file here.
            let real = std::fs::canonicalize(module.clean_path()).ok().map(|real| real.to_string_lossy().into_owned());
            let real_path = real.filter(|real| *real != path);
            let (start, end) = (module.range.start, module.range.end);
            Some(model::Module {
                name,
                path,
                real_path,
                build_id: hex(&module.build_id),
                start,
                end,
                bias: module.base,
            })
        })
        .collect();
    found.sort_by_key(|module| module.start);
    let mut seen = HashSet::new();
    found.retain(|module| seen.insert((module.path.clone(), module.build_id.clone())));
    found
}

fn frames(group: &Group) -> impl Iterator<Item = &Frame> {
    let freed = group.freed_elsewhere.iter().flat_map(|site| &site.stack);
    let refs = group.refs.iter().flat_map(|holder| &holder.stack);
    let held = group.held_by.iter().flat_map(|holder| &holder.stack);
    group.stack.iter().chain(freed).chain(refs).chain(held)
}

fn hex(bytes: &[u8]) -> Option<String> {
    let digits = bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    (!digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::TargetRange;
    use crate::report::sample;

    fn module(index: u32, path: &str, build_id: &[u8], start: u64) -> Module {
        let range = TargetRange::with_len(start, 0x2000);
        Module { index, base: start, range, path: path.into(), build_id: build_id.to_vec(), flags: 0 }
    }

    #[test]
    fn a_report_names_what_its_stacks_need_and_once() {
        let loaded = [
            module(0, "/lib/libc.so.6 (deleted)", &[], 0x9000),
            module(1, "/bin/server", &[0x0f, 0xa0], 0x1000),
            module(2, "/lib/unused.so", &[1], 0x3000),
            module(3, "/bin/server", &[0x0f, 0xa0], 0x5000),
        ];
        let found = in_stacks(&sample::leaking().groups, loaded.iter());
        let told: Vec<_> = found.iter().map(|m| (m.path.as_str(), m.build_id.as_deref(), m.start, m.end)).collect();
        assert_eq!(told, [("/bin/server", Some("0fa0"), 0x1000, 0x3000), ("/lib/libc.so.6", None, 0x9000, 0xb000)]);
        assert!(in_stacks(&[], loaded.iter()).is_empty());
    }
}
