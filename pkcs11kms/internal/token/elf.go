package token

import (
	"debug/elf"
	"errors"
	"io"
	"os"
	"runtime"
)

// elfMachines are the machines that this program may run on, as an ELF file names them.
var elfMachines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "arm": elf.EM_ARM,
	"ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "riscv64": elf.EM_RISCV,
}

// whyUnloadable looks into a module file before the dynamic linker does, and returns what is wrong with it, or "". The
// linker's own words do not come through miekg/pkcs11, and a file that ends too early kills the process inside it.
func whyUnloadable(path string) string {
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	file, err := elf.NewFile(f)
	var format *elf.FormatError
	switch {
	case errors.As(err, &format), errors.Is(err, io.EOF) && size < 64:
		return "it is not a shared library"
	case err != nil:
		return "it is damaged or not complete"
	}
	return whyELFUnloadable(file, uint64(size))
}

func whyELFUnloadable(file *elf.File, size uint64) string {
	if want, ok := elfMachines[runtime.GOARCH]; ok && file.Machine != want {
		return "it is made for another kind of processor"
	}
	for _, segment := range file.Progs {
		if segment.Off > size || segment.Filesz > size-segment.Off {
			return "it is damaged or not complete"
		}
	}
	symbols, err := file.DynamicSymbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return "" // let the linker judge
	}
	for _, s := range symbols {
		if s.Name == "C_GetFunctionList" && s.Section != elf.SHN_UNDEF {
			return ""
		}
	}
	return "it is not a PKCS#11 module (it has no C_GetFunctionList)"
}
