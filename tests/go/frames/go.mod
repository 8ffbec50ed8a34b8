module example.org/frames

go 1.22
