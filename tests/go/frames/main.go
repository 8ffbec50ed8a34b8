// Frames in Go, lost and held in the ways that servers know, and every way to end. Prints its own truth.
//
//	frames lose error|clones|worker|batch [COUNT]
//	frames hold map|channel|slice|parked|uintptr|closure|finalizer|local [COUNT]
//	frames end return|exit|panic|panic-elsewhere|sigterm|segv [COUNT]
package main

/*
#cgo pkg-config: libavutil
#include <libavutil/frame.h>

static int pixels(AVFrame *frame)
{
	frame->format = AV_PIX_FMT_GRAY8;
	frame->width = frame->height = 32;
	return av_frame_get_buffer(frame, 0);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Frame is what bindings make of an AVFrame: an object in Go's heap that leads to one in C's.
type Frame struct {
	c    *C.AVFrame
	note string
}

var (
	made     int
	mutex    sync.Mutex
	errBroke = errors.New("broken input")
)

//go:noinline
func newFrame() *Frame {
	frame := &Frame{c: C.av_frame_alloc(), note: "frame"}
	if frame.c == nil || C.pixels(frame.c) < 0 {
		panic("out of memory")
	}
	mutex.Lock()
	made++
	mutex.Unlock()
	return frame
}

func (frame *Frame) free() {
	C.av_frame_free(&frame.c)
}

// The error path forgets the frame.
//
//go:noinline
func decode(broken bool) (*Frame, error) {
	frame := newFrame()
	if broken {
		return nil, errBroke
	}
	return frame, nil
}

func loseByError(count int) {
	for i := 0; i < 2*count; i++ {
		if frame, err := decode(i%2 == 0); err == nil {
			frame.free()
		}
	}
}

// Where a later clone fails, the earlier ones are forgotten.
//
//go:noinline
func cloneAll(source *Frame, count, good int) ([]*Frame, error) {
	clones := make([]*Frame, 0, count)
	for i := 0; i < count; i++ {
		if i == good {
			return nil, errBroke
		}
		mutex.Lock()
		made++
		mutex.Unlock()
		clones = append(clones, &Frame{c: C.av_frame_clone(source.c)})
	}
	return clones, nil
}

func loseByClones(count int) {
	source := newFrame()
	for lost := 0; lost < count; lost += 4 {
		if _, err := cloneAll(source, 8, 4); err == nil {
			panic("no error")
		}
	}
	source.free()
}

// A worker returns early with the frame that it was handed.
//
//go:noinline
func worker(work chan *Frame, broken bool, all *sync.WaitGroup) {
	defer all.Done()
	frame := <-work
	if broken {
		return
	}
	frame.free()
}

func loseByWorker(count int) {
	work := make(chan *Frame)
	var all sync.WaitGroup
	for i := 0; i < 2*count; i++ {
		all.Add(1)
		go worker(work, i%2 == 0, &all)
	}
	for i := 0; i < 2*count; i++ {
		work <- newFrame()
	}
	all.Wait()
}

// Of a batch of eight only three are freed.
//
//go:noinline
func oneBatch() {
	batch := make([]*Frame, 8)
	for i := range batch {
		batch[i] = newFrame()
	}
	for _, frame := range batch[:3] {
		frame.free()
	}
}

func loseByBatch(count int) {
	for lost := 0; lost < count; lost += 5 {
		oneBatch()
	}
}

var (
	heldMap     map[string]*Frame
	heldChannel chan *Frame
	heldSlice   []*Frame
	heldNumbers []uintptr
	heldClosure func() *Frame
)

//go:noinline
func park(number int, parked *sync.WaitGroup, never chan struct{}) {
	frame := newFrame()
	parked.Done()
	<-never
	frame.free()
}

func hold(how string, count int) func() {
	switch how {
	case "map":
		heldMap = map[string]*Frame{}
		for i := 0; i < count; i++ {
			heldMap[strconv.Itoa(i)] = newFrame()
		}
	case "channel":
		heldChannel = make(chan *Frame, count)
		for i := 0; i < count; i++ {
			heldChannel <- newFrame()
		}
	case "slice":
		for i := 0; i < count; i++ {
			heldSlice = append(heldSlice, newFrame())
		}
	case "uintptr":
		for i := 0; i < count; i++ {
			heldNumbers = append(heldNumbers, frameNumber())
		}
	case "closure":
		var rest func() *Frame
		for i := 0; i < count; i++ {
			frame, before := newFrame(), rest
			rest = func() *Frame {
				if before != nil {
					before()
				}
				return frame
			}
		}
		heldClosure = rest
	case "finalizer":
		for i := 0; i < count; i++ {
			runtime.SetFinalizer(newFrame(), (*Frame).free)
		}
	case "parked":
		var parked sync.WaitGroup
		never := make(chan struct{})
		for i := 0; i < count; i++ {
			parked.Add(1)
			go park(i, &parked, never)
		}
		parked.Wait()
		time.Sleep(50 * time.Millisecond)
	case "local":
		// Only this function's caller's stack leads there.
		local := make(map[int]*Frame)
		for i := 0; i < count; i++ {
			local[i] = newFrame()
		}
		return func() { runtime.KeepAlive(local) }
	default:
		panic(how)
	}
	return func() {}
}

//go:noinline
func frameNumber() uintptr {
	frame := newFrame()
	return frameAddress(frame)
}

func lose(how string, count int) {
	switch how {
	case "error":
		loseByError(count)
	case "clones":
		loseByClones(count)
	case "worker":
		loseByWorker(count)
	case "batch":
		loseByBatch(count)
	default:
		panic(how)
	}
}

// Overwrites what calls have left on the dead part of this goroutine's stack and of the thread's.
//
//go:noinline
func scrub(depth int) int {
	var room [512]int
	for i := range room {
		room[i] = depth
	}
	if depth == 0 {
		return room[len(os.Args)]
	}
	return scrub(depth-1) + room[depth]
}

func truth(ended string, lost int) {
	mutex.Lock()
	defer mutex.Unlock()
	fmt.Printf(`{"truth":{"pid":%d,"ended":%s,"leaks":{"frames":%d,"packets":0,"contexts":0},`+
		`"observed":{"frames_allocated":%d},"totals":{"definitely_lost":{"frames":%d}},"slack_objects":%d}}`+"\n",
		os.Getpid(), ended, lost, made, lost, lost*3/100)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "frames: what?")
		os.Exit(99)
	}
	count := 1000
	if len(os.Args) > 3 {
		count, _ = strconv.Atoi(os.Args[3])
	}
	switch what, how := os.Args[1], os.Args[2]; what {
	case "lose":
		lose(how, count)
		truth(`{"exit":0}`, count)
	case "hold":
		keep := hold(how, count)
		truth(`{"exit":0}`, 0)
		defer keep()
		os.Exit(0)
	case "end":
		lose("error", count)
		scrub(8)
		end(how, count)
	}
}

func end(how string, lost int) {
	switch how {
	case "return":
		truth(`{"exit":0}`, lost)
	case "exit":
		truth(`{"exit":7}`, lost)
		os.Exit(7)
	case "panic":
		truth(`{"exit":2}`, lost)
		panic("on purpose")
	case "panic-elsewhere":
		truth(`{"exit":2}`, lost)
		go func() { panic("on purpose") }()
		select {}
	case "sigterm":
		truth(`{"signal":15}`, lost)
		syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {}
	case "segv":
		truth(`{"exit":2}`, lost)
		*(*int)(nil) = 1
	}
}
