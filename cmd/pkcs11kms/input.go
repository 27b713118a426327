package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/keystore"
)

// input fills the SDK's input struct of one operation from flags named as the aws CLI names them. A flag that is not
// given leaves its member alone, and what is given is passed on unchecked: the service decides what it takes.
type input struct {
	cmd      *cobra.Command
	required []string
	only     []string // flags of which one can be given
	members  []member
}

// member is one flag; set stores its value in the input struct.
type member struct {
	flag string
	set  func() error
}

func newInput(cmd *cobra.Command) *input { return &input{cmd: cmd} }

func (in *input) add(flag string, set func() error) {
	in.members = append(in.members, member{flag, set})
}

// require names the flags without which the operation cannot be asked for, in the order in which they are reported.
func (in *input) require(flags ...string) { in.required = flags }

// oneOf names flags that do not go together.
func (in *input) oneOf(flags ...string) { in.only = flags }

// text is a string member. The flag also takes file://PATH.
func (in *input) text(target **string, flag, usage string) {
	raw := in.cmd.Flags().String(flag, "", usage)
	in.add(flag, func() error {
		value, err := loadText(*raw)
		*target = aws.String(value)
		return err
	})
}

// blob is a binary member: base64, file://PATH with base64, or fileb://PATH with the bytes themselves.
func (in *input) blob(target *[]byte, flag, usage string) {
	raw := in.cmd.Flags().String(flag, "", usage)
	in.add(flag, func() (err error) {
		*target, err = loadBlob(*raw)
		return err
	})
}

// enum is a member with a set of values, which the shell can complete but the service checks.
func enum[T ~string](in *input, target *T, flag, usage string, values []T) {
	raw := in.cmd.Flags().String(flag, "", usage)
	must(in.cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(namesOf(values), cobra.ShellCompDirectiveNoFileComp)))
	in.add(flag, func() error {
		value, err := loadText(*raw)
		*target = T(value)
		return err
	})
}

// namesOf returns the texts of the values of an enum.
func namesOf[T ~string](values []T) (names []string) {
	for _, value := range values {
		names = append(names, string(value))
	}
	return names
}

// inFront moves the values that can be used here before the rest of the API's.
func inFront[T ~string](first []T, all []T) []T {
	rest := slices.DeleteFunc(slices.Clone(all), func(value T) bool { return slices.Contains(first, value) })
	return append(slices.Clone(first), rest...)
}

// boolean is a pair of flags, --flag and --no-flag.
func (in *input) boolean(set func(bool), flag, usage string) {
	no := "no-" + flag
	on := in.cmd.Flags().Bool(flag, false, usage)
	off := in.cmd.Flags().Bool(no, false, "the opposite of --"+flag)
	in.add(flag, func() error {
		if in.cmd.Flags().Changed(no) {
			return errors.New("cannot be given together with --" + no)
		}
		set(*on)
		return nil
	})
	in.add(no, func() error {
		set(!*off)
		return nil
	})
}

func (in *input) number(target **int32, flag, usage string) {
	raw := in.cmd.Flags().Int32(flag, 0, usage)
	in.add(flag, func() error {
		*target = raw
		return nil
	})
}

// list is a list of strings: several values behind one flag (see spreadLists), or a JSON list.
func (in *input) list(target *[]string, flag, usage string) {
	raw := in.cmd.Flags().StringArray(flag, nil, usage)
	in.add(flag, func() (err error) {
		*target, err = parseList(*raw)
		return err
	})
}

// tags is a list of tags in the aws CLI's shorthand or as JSON.
func (in *input) tags(target *[]types.Tag, flag, usage string) {
	raw := in.cmd.Flags().StringArray(flag, nil, usage)
	in.cmd.Long += structureHelp(flag)
	in.add(flag, func() (err error) {
		*target, err = parseTags(*raw)
		return err
	})
}

// iamTags is tags for the operations of AWS IAM, whose members have other names.
func (in *input) iamTags(target *[]keystore.Tag, flag, usage string) {
	raw := in.cmd.Flags().StringArray(flag, nil, usage)
	in.cmd.Long += structureHelp(flag)
	in.add(flag, func() (err error) {
		*target, err = parseIAMTags(*raw)
		return err
	})
}

// recipient is the structure of that name, in the aws CLI's shorthand or as JSON.
func (in *input) recipient(target **types.RecipientInfo, flag, usage string) {
	raw := in.cmd.Flags().String(flag, "", usage)
	in.cmd.Long += structureHelp(flag)
	in.add(flag, func() (err error) {
		*target, err = parseRecipient(*raw)
		return err
	})
}

// constraints is the structure of a grant's constraints, in the aws CLI's shorthand or as JSON.
func (in *input) constraints(target **types.GrantConstraints, flag, usage string) {
	raw := in.cmd.Flags().String(flag, "", usage)
	in.cmd.Long += structureHelp(flag)
	in.add(flag, func() (err error) {
		*target, err = parseConstraints(*raw)
		return err
	})
}

// parse stores what the command line gave. Its errors never show a value: it may be a message.
func (in *input) parse() error {
	var missing []string
	for _, flag := range in.required {
		if !in.cmd.Flags().Changed(flag) {
			missing = append(missing, "--"+flag)
		}
	}
	if len(missing) > 0 {
		return usagef("the following arguments are required: %s", strings.Join(missing, ", "))
	}
	var given []string
	for _, flag := range in.only {
		if in.cmd.Flags().Changed(flag) {
			given = append(given, "--"+flag)
		}
	}
	if len(given) > 1 {
		return usagef("%s do not go together", strings.Join(given, " and "))
	}
	for _, m := range in.members {
		if !in.cmd.Flags().Changed(m.flag) {
			continue
		}
		if err := m.set(); err != nil {
			return &usageError{err: prefixed("argument --"+m.flag, err), hint: hintOf(err)}
		}
	}
	return nil
}
