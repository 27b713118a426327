package main

import (
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkcs11kms/bridge/pkcs11kms/audit"
)

func (a *app) auditStatsCommand() *cobra.Command {
	cmd := verb(groupAdmin, "stats [--since TIME] [--until TIME]", "Count who uses which key how often",
		"Counts the calls by caller, operation and key (or user or role), the most frequent first, with those that failed\n"+
			"among them. All records of that time are read. TIME is 2026-01-02, 2026-01-02T15:04:05Z, or so long ago:\n"+
			"90m, 24h.",
		"pkcs11kms audit stats --since 24h",
		"pkcs11kms audit stats --query 'Uses[?Errors>`0`].[Principal,EventName,Errors]' --output text")
	cmd.Annotations = map[string]string{printsResponse: "", allRegions: ""}
	since := cmd.Flags().String("since", "", "not before this time")
	until := cmd.Flags().String("until", "", "before this time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		now := time.Now()
		from, err := parseMoment("since", *since, now)
		if err != nil {
			return err
		}
		to, err := parseMoment("until", *until, now)
		if err != nil {
			return err
		}
		dir, err := a.auditDirectory()
		if err != nil {
			return err
		}
		uses, err := audit.Uses(cmd.Context(), dir, from, to)
		if err != nil {
			return err
		}
		text, err := json.Marshal(map[string]any{"Uses": append([]audit.Use{}, uses...)})
		if err != nil {
			return err
		}
		return a.printJSON("AuditStats", text)
	}
	return cmd
}
