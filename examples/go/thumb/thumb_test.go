package thumb

import (
	"os"
	"strconv"
	"sync"
	"testing"
)

func TestSize(t *testing.T) {
	width, height, err := Make(640, 360)
	if err != nil || width != 160 || height != 90 {
		t.Fatalf("%dx%d, %v", width, height, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for range 32 {
		all.Add(1)
		go func() {
			defer all.Done()
			if _, _, err := Make(320, 180); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
}

// The error is handled, the test passes; what the error path forgets is what avleak finds.
func TestTooSmall(t *testing.T) {
	times := 3
	if text := os.Getenv("EXAMPLE_TIMES"); text != "" {
		times, _ = strconv.Atoi(text)
	}
	for range times {
		if _, _, err := Make(3, 3); err == nil {
			t.Error("a picture of 3x3 has no thumbnail")
		}
	}
}
