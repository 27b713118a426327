package token_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pkcs11kms/bridge/pkcs11kms/internal/token"
)

// Whoever has waited while the last session was in a call that its caller gave up is told of that call, which hangs by then.
func TestWaitersForAHungCallAreToldOfIt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tok, f := openFaulty(t, sessions(1), timeout(1500*time.Millisecond))
		key := newKey(t, tok)
		reached, free := f.hang("C_Sign")
		defer free()
		ctx, giveUp := context.WithCancel(context.Background())
		first := sign(ctx, tok, key)
		<-reached
		second := sign(context.Background(), tok, key)
		synctest.Wait()
		require.Equal(t, 1, tok.Stats().Waiting)
		giveUp()
		require.ErrorIs(t, <-first, context.Canceled)
		hung, ok := errors.AsType[*token.HungError](<-second)
		require.True(t, ok)
		require.ErrorContains(t, hung, "1 calls of the module have not come back")
	})
}

// While one of the calls that were given up was so a moment ago, it may come back soon: then others wait, whatever became of the rest.
func TestACallerInAHurryIsNoReasonToRefuseOthers(t *testing.T) {
	for _, order := range []string{"last", "first"} {
		t.Run("given up "+order, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tok, f := openFaulty(t, sessions(2), timeout(1500*time.Millisecond))
				key := newKey(t, tok)
				reached, free := f.hang("C_Sign")
				defer free()
				ctx, giveUp := context.WithCancel(context.Background())
				patient := sign(t.Context(), tok, key)
				<-reached
				timedOut := func() {
					_, hung := errors.AsType[*token.HungError](<-patient)
					require.True(t, hung)
				}
				if order == "last" {
					timedOut()
				}
				hurried := sign(ctx, tok, key)
				<-reached
				if order == "first" {
					time.Sleep(1400 * time.Millisecond) // of the bubble's clock
				}
				giveUp()
				require.ErrorIs(t, <-hurried, context.Canceled)
				if order == "first" {
					timedOut()
				}
				third := sign(t.Context(), tok, key)
				synctest.Wait()
				require.Equal(t, 1, tok.Stats().Waiting)
				free()
				require.NoError(t, <-third)
			})
		})
	}
}

// What has hung the longest is named, be it a check of the health or a call.
func TestTheOldestThatHangsIsNamed(t *testing.T) {
	for _, order := range [][2]string{{"C_GetSessionInfo", "C_Sign"}, {"C_Sign", "C_GetSessionInfo"}} {
		t.Run(order[0]+" first", func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tok, f := openFaulty(t, timeout(time.Second))
				key := newKey(t, tok)
				ctx, end := context.WithCancel(context.Background())
				defer end()
				calls := map[string]func() error{
					"C_GetSessionInfo": func() error { return tok.Healthy(ctx) },
					"C_Sign":           func() error { return <-sign(ctx, tok, key) },
				}
				var since time.Time
				comeBack := map[string]func(){}
				for i, function := range order {
					_, free := f.hang(function)
					comeBack[function] = sync.OnceFunc(free)
					defer comeBack[function]()
					_, hung := errors.AsType[*token.HungError](calls[function]())
					require.True(t, hung, function)
					if i == 0 {
						since = tok.State().WaitingSince
					}
					time.Sleep(time.Second) // of the bubble's clock
				}
				require.Equal(t, order[0], tok.State().Waiting)
				require.Equal(t, since, tok.State().WaitingSince)

				comeBack["C_GetSessionInfo"]()
				time.Sleep(time.Second)
				require.Equal(t, "C_Sign", tok.State().Waiting, "the check has come back")
				comeBack["C_Sign"]()
				time.Sleep(time.Second)
				require.Empty(t, tok.State().Waiting)
			})
		})
	}
}
