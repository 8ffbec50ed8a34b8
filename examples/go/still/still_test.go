package still

import "testing"

func TestFrames(t *testing.T) {
	if got := Frames(2, 29.97); got != 60 {
		t.Fatal(got)
	}
}
