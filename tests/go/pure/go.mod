module example.org/pure

go 1.25.0

require github.com/ebitengine/purego v0.11.2

replace github.com/ebitengine/purego => ../../../build/purego/src/github.com/ebitengine/purego
