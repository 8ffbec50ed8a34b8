// Package thumb scales pictures down with libswscale.
package thumb

/*
#cgo pkg-config: libavutil libswscale
#include "thumb.h"
*/
import "C"

import "fmt"

// Make scales a gray picture of width x height to a quarter of its size and returns the size of the result.
func Make(width, height int) (int, int, error) {
	var outWidth, outHeight C.int
	if code := C.thumb_make(C.int(width), C.int(height), &outWidth, &outHeight); code < 0 {
		return 0, 0, fmt.Errorf("thumbnail of %dx%d: error %d", width, height, int(code))
	}
	return int(outWidth), int(outHeight), nil
}
