package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// plainShorthand turns what parseShorthand returns into what JSON has.
func plainShorthand(value any) any {
	switch v := value.(type) {
	case shorthandText:
		return v.text
	case []any:
		list := []any{}
		for _, item := range v {
			list = append(list, plainShorthand(item))
		}
		return list
	case map[string]any:
		m := map[string]any{}
		for name, item := range v {
			m[name] = plainShorthand(item)
		}
		return m
	}
	return value
}

// TestShorthandOfTheAWSCLI compares with what the aws CLI's own parser made of the same texts.
func TestShorthandOfTheAWSCLI(t *testing.T) {
	text, err := os.ReadFile("testdata/shorthand.json")
	require.NoError(t, err)
	var golden struct {
		Cases []struct {
			Text    string
			Members map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(text, &golden))
	require.Greater(t, len(golden.Cases), 300)
	for _, tc := range golden.Cases {
		got, err := parseShorthand(tc.Text)
		switch {
		case err != nil:
			_, unnamed := tc.Members[""] // which no structure has
			assert.True(t, tc.Members == nil || unnamed, "%q: %v", tc.Text, err)
		case tc.Members == nil:
			t.Errorf("%q: the aws CLI refuses it, this gives %v", tc.Text, plainShorthand(got))
		default:
			assert.Equal(t, tc.Members, plainShorthand(got), "%q", tc.Text)
		}
	}
}

// TestShorthandHoldsNothingOfTheText: a value may be a secret, and an error may be kept in a log.
func TestShorthandHoldsNothingOfTheText(t *testing.T) {
	for _, text := range []string{`S3CRET VALUE`, `a="S3CRET VALUE`, `a=b,"S3CRET`, `a="S3CRET"VALUE`, `a=[S3CRET`, `a={b=S3CRET`,
		`a={S3CRET!}`} {
		_, err := parseShorthand(text)
		require.Error(t, err, text)
		assert.NotContains(t, err.Error(), "S3CRET")
	}
}

func TestShorthandIsBounded(t *testing.T) {
	_, err := parseShorthand("a=" + strings.Repeat("[", 1<<20))
	assert.Error(t, err)
	_, err = parseShorthand("a=" + strings.Repeat("[", 10) + strings.Repeat("]", 10))
	assert.NoError(t, err)
}

// FuzzShorthand: whatever is given, there is an end, and a value that was quoted comes out as it was.
func FuzzShorthand(f *testing.F) {
	for _, text := range []string{`a=b`, `a="b, c",d='e'`, `a=[b,{c=d}]`, `a=b\,c`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseShorthand(text)
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
		if strings.HasSuffix(text, `\`) || strings.Contains(text, `\"`) {
			return // which the aws CLI's quoting cannot tell from its own
		}
		members, err := parseShorthand(`a="` + quoted + `",b=c`)
		require.NoError(t, err)
		assert.Equal(t, shorthandText{text: text}, members["a"])
		assert.Equal(t, shorthandText{text: "c"}, members["b"])
	})
}
