package softhsm

// Places gives the tests the list of places, to build each of them under a directory of their own.
var Places = places

// FirstFile is what Find does with that list.
var FirstFile = firstFile
