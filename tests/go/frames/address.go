package main

import "unsafe"

// What purego and its like keep: a number that the collector does not know for a pointer.
func frameAddress(frame *Frame) uintptr {
	return uintptr(unsafe.Pointer(frame.c))
}
