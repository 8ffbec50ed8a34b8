// Frames in Go without cgo: libavutil is opened by purego, its functions looked up by dlsym. Prints its own truth.
//
//	pure LIBAVUTIL[,LIBAVUTIL…] lose|hold|clean [COUNT]
//
// Of several, versions beside each other in one process, each makes its share of the frames.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/ebitengine/purego"
)

// avutil is one libavutil.
type avutil struct {
	frameAlloc func() uintptr
	frameFree  func(*uintptr)
	frameClone func(uintptr) uintptr
}

var (
	made int
	// What the program still wants.
	held = map[int]*picture{}
)

// picture is what bindings without cgo make of an AVFrame: an object in Go's heap that leads to one in C's.
type picture struct {
	frame uintptr
	of    *avutil
}

func open(path string) *avutil {
	library, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	of := &avutil{}
	purego.RegisterLibFunc(&of.frameAlloc, library, "av_frame_alloc")
	purego.RegisterLibFunc(&of.frameFree, library, "av_frame_free")
	purego.RegisterLibFunc(&of.frameClone, library, "av_frame_clone")
	return of
}

//go:noinline
func newPicture(of *avutil) *picture {
	frame := of.frameAlloc()
	if frame == 0 {
		panic("out of memory")
	}
	made++
	return &picture{frame: frame, of: of}
}

func (p *picture) free() { p.of.frameFree(&p.frame) }

// The error path forgets the picture.
//
//go:noinline
func decode(of *avutil, broken bool) *picture {
	p := newPicture(of)
	if broken {
		return nil
	}
	return p
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: pure LIBAVUTIL[,LIBAVUTIL…] lose|hold|clean [COUNT]")
		os.Exit(2)
	}
	count := 1000
	if len(os.Args) > 3 {
		number, err := strconv.Atoi(os.Args[3])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		count = number
	}
	var all []*avutil
	for _, path := range strings.Split(os.Args[1], ",") {
		all = append(all, open(path))
	}

	lost := 0
	for i := 0; i < count; i++ {
		of := all[i%len(all)]
		switch os.Args[2] {
		case "lose":
			decode(of, true)
			decode(of, false).free()
			lost++
		case "hold":
			held[i] = decode(of, false)
		default:
			p := decode(of, false)
			copied := &picture{frame: of.frameClone(p.frame), of: of}
			made++
			copied.free()
			p.free()
		}
	}
	slack := lost * 3 / 100
	fmt.Printf(`{"truth":{"pid":%d,"ended":{"exit":0},"leaks":{"frames":%d,"packets":0,"contexts":0},`+
		`"observed":{"frames_allocated":%d},"totals":{},"slack_objects":%d}}`+"\n", os.Getpid(), lost, made, slack)
	runtime.KeepAlive(held)
}
