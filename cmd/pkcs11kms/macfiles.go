package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms"
)

const standardInput = "-"

// macker makes the MACs of files with one key.
type macker struct {
	app       *app
	client    *pkcs11kms.Client
	keyID     string
	algorithm types.MacAlgorithmSpec
}

func (a *app) macCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mac --key-id ID --mac-algorithm ALGORITHM [--check] [FILE...]",
		GroupID: groupMACs,
		Short:   "Make or check the HMACs of files of any size",
		Long: "Make or check the HMACs of files of any size.\n\n" +
			"Prints one line for each FILE, in the form of sha256sum. Without a FILE, or for -, standard input is read.\n" +
			"The MAC is the one that generate-mac makes of the same bytes. With --check each FILE holds such lines; the\n" +
			"exit code is 1 when a MAC does not fit, a file cannot be read or a line is malformed.",
		Example: "  pkcs11kms mac --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --mac-algorithm HMAC_SHA_256 *.iso > MACS\n" +
			"  pkcs11kms mac --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --mac-algorithm HMAC_SHA_256 --check MACS\n" +
			"  tar c dir | pkcs11kms mac --key-id 1234abcd-12ab-34cd-56ef-1234567890ab --mac-algorithm HMAC_SHA_256",
		DisableFlagsInUseLine: true,
	}
	var keyID *string
	m := macker{app: a}
	in := newInput(cmd)
	in.text(&keyID, "key-id", anyKeyIDUsage)
	enum(in, &m.algorithm, "mac-algorithm", macAlgorithmUsage, types.MacAlgorithmSpec("").Values())
	in.require("key-id", "mac-algorithm")
	check := cmd.Flags().BoolP("check", "c", false, "read lines of MACs from the FILEs and check them")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if err := in.parse(); err != nil {
			return err
		}
		if len(files) == 0 {
			files = []string{standardInput}
		}
		m.keyID = aws.ToString(keyID)
		return a.withToken(cmd.Context(), func(client *pkcs11kms.Client) error {
			m.client = client
			if *check {
				return m.checkAll(cmd.Context(), files)
			}
			return m.printAll(cmd.Context(), files)
		})
	}
	return cmd
}

// printAll prints a line for each file. A file that cannot be read does not keep the others from being done.
func (m *macker) printAll(ctx context.Context, files []string) error {
	unread := false
	for _, name := range files {
		tag, err := m.file(ctx, name)
		if fatal(ctx, err) {
			return err
		}
		if err != nil {
			m.app.warn(err)
			unread = true
			continue
		}
		line := formatMACLine
		if isTerminal(m.app.stdout) {
			line = displayMACLine
		}
		if err := m.app.write([]byte(line(tag, name))); err != nil {
			return err
		}
	}
	if unread {
		return exitError(exitRefused)
	}
	return nil
}

// fatal tells an error that would meet every other file too from one of a single file.
func fatal(ctx context.Context, err error) bool {
	var unreadable *unreadableError
	return err != nil && (ctx.Err() != nil || !errors.As(err, &unreadable))
}

// unreadableError is a file whose content could not be had.
type unreadableError struct {
	name string
	err  error
}

func (e *unreadableError) Error() string {
	cause := e.err
	var path *os.PathError
	if errors.As(cause, &path) {
		cause = path.Err // names the file a second time
	}
	return fmt.Sprintf("reading %q: %v", e.name, cause)
}

func (e *unreadableError) Unwrap() error { return e.err }

// file makes the MAC of one file.
func (m *macker) file(ctx context.Context, name string) ([]byte, error) {
	source, size, err := m.open(ctx, name)
	if err != nil {
		return nil, &unreadableError{name, err}
	}
	defer source.Close()
	stream, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	bar := m.app.progress(name, size)
	defer bar.Close()
	if err := copyTo(io.MultiWriter(stream, bar), source, name); err != nil {
		return nil, m.named(err)
	}
	tag, err := stream.Sum()
	return tag, m.named(err)
}

func (m *macker) begin(ctx context.Context) (*pkcs11kms.MACStream, error) {
	stream, err := m.client.NewMAC(ctx, m.keyID, m.algorithm)
	return stream, m.named(err)
}

// named adds the name of the operation to an error of the API.
func (m *macker) named(err error) error {
	var refused smithy.APIError
	if errors.As(err, &refused) {
		return &operationError{"GenerateMac", err}
	}
	return err
}

// open returns the content of a file and its size, -1 when it is not known.
func (m *macker) open(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	if name == standardInput {
		return io.NopCloser(interruptible(ctx, m.app.stdin)), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	size := int64(-1)
	if info.Mode().IsRegular() {
		size = info.Size()
	}
	return struct {
		io.Reader
		io.Closer
	}{interruptible(ctx, f), f}, size, nil
}

// chunk is how much goes to the token at a time: enough to make the crossing cheap, little enough to stop quickly.
const chunk = 256 << 10

// copyTo is io.Copy that tells errors of the source from errors of the destination.
func copyTo(to io.Writer, from io.Reader, name string) error {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, writeErr := to.Write(buf[:n]); writeErr != nil {
				return writeErr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &unreadableError{name, err}
		}
	}
}
