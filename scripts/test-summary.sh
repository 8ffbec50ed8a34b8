#!/usr/bin/env bash
# Sums up what `cargo test` printed (a file): one line over all its test binaries.
set -euo pipefail
awk '
    /^test result: / {
        binaries++
        for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed;/) passed += $i
            if ($(i + 1) ~ /^failed;/) failed += $i
            if ($(i + 1) ~ /^ignored;/) ignored += $i
        }
    }
    END { printf "summary: %d passed, %d failed, %d ignored in %d test binaries\n", passed, failed, ignored, binaries }
' "$1"
