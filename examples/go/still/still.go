// Package still answers questions about video without FFmpeg: as in most projects, not every package needs it.
package still

// Frames returns how many frames last so many seconds.
func Frames(seconds, rate float64) int {
	return int(seconds*rate + 0.5)
}
