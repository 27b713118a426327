package faultp11_test

import (
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestHandlesReusedInAProcess: as with opencryptoki, the number of an object that another client has destroyed is given to the next object
// that this process finds or makes.
func TestHandlesReusedInAProcess(t *testing.T) {
	h := newIdleHost(t)
	h.m.Do("handles process")
	h.initialize()
	s := h.login()
	first, second := h.key(s, "first"), h.key(s, "second")
	assert.NotEqual(t, first, second)
	assert.Equal(t, []pkcs11.ObjectHandle{first}, h.find(s, "first"), "an object keeps its number")
	want := h.mustMAC(s, second, "message")

	o := h.other()
	os := o.login()
	require.NoError(t, o.DestroyObject(os, o.find(os, "first")[0]))
	o.key(os, "third")
	_, err := h.mac(s, first, "message")
	require.Error(t, err, "nothing was found yet")

	third := h.find(s, "third")
	require.Equal(t, []pkcs11.ObjectHandle{first}, third)
	values, err := h.GetAttributeValue(s, first, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
	require.NoError(t, err)
	assert.Equal(t, "third", string(values[0].Value))
	assert.Equal(t, h.mustMAC(s, first, "message"), o.mustMAC(os, o.find(os, "third")[0], "message"), "a MAC by another key")
	assert.Equal(t, want, h.mustMAC(s, second, "message"), "the other number is not touched")

	require.NoError(t, h.DestroyObject(s, first))
	assert.Equal(t, first, h.key(s, "fourth"), "also of an object of its own")
	_, err = h.mac(s, 99, "message")
	requireRV(t, pkcs11.CKR_OBJECT_HANDLE_INVALID, err)
}

// TestHandlesOfThePartition: the number is another object's although this process has found and made nothing.
func TestHandlesOfThePartition(t *testing.T) {
	h := newIdleHost(t)
	h.m.Do("handles partition")
	h.initialize()
	s := h.login()
	first := h.key(s, "first")
	o := h.other()
	os := o.login()
	require.NoError(t, o.DestroyObject(os, o.find(os, "first")[0]))
	_, err := h.mac(s, first, "message")
	requireRV(t, pkcs11.CKR_OBJECT_HANDLE_INVALID, err)

	o.key(os, "second")
	want := o.mustMAC(os, o.find(os, "second")[0], "message")
	assert.Equal(t, want, h.mustMAC(s, first, "message"))
	assert.Equal(t, []pkcs11.ObjectHandle{first}, h.find(s, "second"))
}
